"""A `fit` that is killed in its third epoch; run by test_crashes.py.

python -m tests.files.killed_fit FOLDER METHOD kill
"""

import os
import signal
import sys

import keras
import numpy as np
from keras import layers, ops

import keras_lora

METHODS = {
    "lora": keras_lora.LoRAConfig(2),
    "bottleneck": keras_lora.AdapterConfig(3, targets=["dense"]),
}


class Kill(keras.callbacks.Callback):
    """Ends the process as a loss of power would."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 10:
            os.kill(os.getpid(), signal.SIGKILL)


def trained(method, folder, kill=False, epochs=4):
    """Fits an adapted model; gives all its weights.

    Args:
        method: Of `METHODS`.
        folder: Where progress is backed up, and found again; None for none.
        kill: Whether to die in the third epoch.
        epochs: Epochs of four batches.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh"),
            layers.BatchNormalization(),
            layers.Dense(4),
        ]
    )
    keras_lora.inject(base, METHODS[method])
    model = keras.Sequential([base, layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 6)).astype("float32")
    callbacks = [keras.callbacks.BackupAndRestore(folder)] if folder else []
    model.fit(
        x,
        x.sum(-1, keepdims=True),
        epochs=epochs,
        batch_size=2,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, *([Kill()] if kill else [])],
    )
    return [np.array(ops.convert_to_numpy(v.value)) for v in model.weights]


if __name__ == "__main__":
    trained(sys.argv[2], sys.argv[1], kill=True)
