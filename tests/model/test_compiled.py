"""Models that look whether what they compiled is stale, while layers change."""

import threading

import keras

from keras_lora.model.compiled import forget_compiled


def test_a_model_that_looks_during_a_change_sees_all_of_it():
    layer = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    assert model.compiled
    looks = threading.Thread(target=lambda: model.compiled)

    def changed():
        looks.start()
        looks.join(0.2)  # it may wait for the change to be whole
        yield layer

    forget_compiled(changed())
    looks.join()
    assert not model.compiled
