"""What version 0.1 wrote is read as it was: files, banks, pickles.

`tests/data/v0.1` was written by it on TensorFlow: one base, an adapter of each
method with a head on top, `.keras` files and pickles of the adapted models, a
bank's folder, layers built by hand, and what each of them answered.
"""

import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_lora
from tests.helpers import numpy_of

FOLDER = Path(__file__).parent / "data" / "v0.1"
ANSWERS = dict(np.load(FOLDER / "answers.npz"))
X, Z = np.load(FOLDER / "x.npy"), np.load(FOLDER / "z.npy")
METHODS = ["lora", "dora", "pissa", "ia3", "bottleneck", "parallel"]


def base_model():
    return keras.saving.load_model(FOLDER / "base.keras", compile=False)


def with_head(base):
    layers = keras.layers
    return keras.Sequential(
        [base, layers.GlobalAveragePooling1D(), layers.Dense(3, name="head")]
    )


def check(found, name):
    np.testing.assert_allclose(numpy_of(found), ANSWERS[name], atol=2e-5)


def test_the_answers_differ_from_one_another():
    tasks = [ANSWERS[name] for name in METHODS]
    for number, answer in enumerate(tasks):
        for other in tasks[:number]:
            assert np.abs(answer - other).max() > 1e-2


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_file_loads(name):
    path = FOLDER / f"{name}.safetensors"
    assert keras_lora.inspect_adapter(path).version == "0.1.0"
    base = base_model()
    check(base(X), "base")
    model = with_head(base)
    model.build((None, 6, 8))
    keras_lora.load_adapter(model, path)
    check(model(X), name)
    keras_lora.eject(model)
    check(base(X), "base")


def test_a_bank_s_folder_is_restored():
    bank = keras_lora.AdapterBank.restore(base_model(), FOLDER / "bank")
    names = ["dora", "ia3", "bottleneck", "parallel", "pissa"]
    assert bank.names == names
    for name in names:
        check(bank.predict(X, adapter=name), name)
    mixed = bank.predict(X, adapter=["ia3", None, "dora"])
    np.testing.assert_allclose(mixed[0], ANSWERS["ia3"][0], atol=2e-5)
    np.testing.assert_allclose(mixed[1], ANSWERS["base"][1], atol=2e-5)
    np.testing.assert_allclose(mixed[2], ANSWERS["dora"][2], atol=2e-5)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "bottleneck"])
def test_a_keras_file_of_an_adapted_model_loads(name):
    model = keras.saving.load_model(FOLDER / f"{name}.keras")
    check(model(X), name)
    assert keras_lora.summary(model).rows


def test_a_keras_file_of_an_adapted_base_loads_and_ejects():
    base = keras.saving.load_model(FOLDER / "adapted.keras")
    check(base(X), "adapted")
    keras_lora.eject(base)
    check(base(X), "base")


@pytest.mark.parametrize(
    ("name", "x"), [("lora", X), ("adapted", X), ("by_hand", Z), ("layer", Z)]
)
def test_a_pickle_loads(name, x):
    found = pickle.loads((FOLDER / f"{name}.pickle").read_bytes())
    check(found(x), name)


def test_a_keras_file_of_layers_built_by_hand_loads():
    check(keras.saving.load_model(FOLDER / "by_hand.keras")(Z), "by_hand")


def test_pickled_configs_load():
    configs = pickle.loads((FOLDER / "configs.pickle").read_bytes())
    assert [config.method for config in configs] == [
        "lora",
        "dora",
        "svd",
        "ia3",
        "bottleneck",
        "parallel",
    ]
    base = base_model()
    keras_lora.inject(base, configs[0])
    assert keras_lora.summary(base).rows
