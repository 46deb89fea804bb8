"""Training on two devices of one machine; run by test_distribution.py.

    python -m tests.rewrite.distributed mirrored|data|model FOLDER

Prints what was found as JSON. JAX needs to be told of two devices:
XLA_FLAGS=--xla_force_host_platform_device_count=2.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

import keras_lora

WAY = sys.argv[1]
METHODS = {
    "lora": keras_lora.LoRAConfig(2),
    "bottleneck": keras_lora.AdapterConfig(2, targets=["stem", "norm"]),
}


def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6)).astype("float32")
    return x, np.tanh(x[:, :2])


def make(method):
    """An adapted base with a head, alike in every run."""
    keras.utils.set_random_seed(3)
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", name="stem"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(4, name="branch"),
        ]
    )
    keras_lora.inject(base, METHODS[method])
    model = keras.Sequential([base, layers.Dense(2, name="top")])
    return base, model


def values(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def train(method):
    """Fits a new model; gives it, its base, and the base's values before."""
    base, model = make(method)
    trained = {id(v) for v in base.trainable_variables}
    frozen = [v for v in base.weights if id(v) not in trained]
    before = values(frozen)
    model.compile(keras.optimizers.SGD(0.002), "mse")
    model.fit(*rows(), batch_size=8, epochs=3, shuffle=False, verbose=0)
    same = all(
        a.tobytes() == b.tobytes()
        for a, b in zip(before, values(frozen), strict=True)
    )
    return base, model, same


class Again:
    """A context that may be entered more than once."""

    def __init__(self, make):
        self.make = make

    def __enter__(self):
        self.context = self.make()
        return self.context.__enter__()

    def __exit__(self, *error):
        return self.context.__exit__(*error)


def setting(way):
    """The context in which Keras uses both devices."""
    if way == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        assert strategy.num_replicas_in_sync == 2
        return Again(strategy.scope)
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    if way == "data":
        data = keras.distribution.DataParallel(devices=devices)
        return Again(data.scope)
    mesh = keras.distribution.DeviceMesh((1, 2), ["batch", "model"], devices)
    layout = keras.distribution.LayoutMap(mesh)
    # The stem by columns, what reads it by rows; their adapters alike: the
    # factor that has the split axis is split, the other is on each device.
    layout[".*stem/kernel"] = (None, "model")
    layout[".*stem/bias"] = ("model",)
    layout[".*stem/lora_b"] = (None, "model")
    layout[".*branch/kernel"] = ("model", None)
    layout[".*branch/lora_a"] = ("model", None)
    distribution = keras.distribution.ModelParallel(
        layout_map=layout, batch_dim_name="batch"
    )
    return Again(distribution.scope)


def copies(variable):
    """Shapes of a variable's parts on the devices."""
    if WAY == "mirrored":
        return [list(v.shape) for v in variable.value.values]
    return [list(s.data.shape) for s in variable.value.addressable_shards]


def main(folder):
    found = {}
    scope = setting(WAY)
    for method in METHODS:
        _, model, _ = train(method)
        expected = values(model.weights)
        with scope:
            found[method] = entry = {}
            base, model, entry["base_same"] = train(method)
            entry["parts"] = {
                "/".join(v.path.split("/")[-2:]): copies(v)
                for v in base.weights
            }
            pairs = zip(expected, values(model.weights), strict=True)
            gaps = [float(np.abs(a - b).max()) for a, b in pairs]
            entry["gap"] = max(gaps)
            y = model.predict(rows()[0], verbose=0)
            file = folder / f"{method}.safetensors"
            keras_lora.save_adapter(model, file)
            _, again = make(method)
            keras_lora.load_adapter(again, file)
            gap = np.abs(again.predict(rows()[0], verbose=0) - y).max()
            entry["loaded_gap"] = float(gap)
            keras_lora.eject(base)
            entry["ejected"] = len(base.weights)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[2]))
