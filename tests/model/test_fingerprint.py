"""The digest of a base: alike for equal bases, and what it tells apart."""

import keras
import numpy as np
import pytest

import keras_lora
from keras_lora import LoRAConfig
from keras_lora.model import fingerprint
from tests.helpers import fill, normal
from tests.models import functional, set_random


def variable(value, dtype="float32"):
    made = keras.Variable(np.zeros(np.shape(value)), dtype=dtype)
    made.assign(value)
    return made


def digest(value, dtype="float32", sampled=False):
    return fingerprint.digest(variable(value, dtype), sampled)


def test_a_digest_is_of_dtype_shape_and_every_value():
    value = normal(3, 4)
    other = value.copy()
    other[2, 3] = np.nextafter(other[2, 3], np.inf, dtype="float32")
    assert digest(value) == digest(value.copy())
    assert digest(value)[:2] == ["float32", [3, 4]]
    assert digest(value)[2] != digest(other)[2]
    assert digest(value) != digest(value.T)
    assert digest(value, "float16") != digest(value)
    assert digest(0.0 * value)[2] != digest(-0.0 * np.abs(value))[2]


def test_a_digest_is_the_one_that_files_hold():
    """It is compared with those of files that older versions wrote."""
    value = np.arange(6, dtype="float32").reshape(2, 3)
    assert digest(value) == ["float32", [2, 3], "7343796a8f06af4d"]


@pytest.mark.parametrize("count", [7, 8, 30])
def test_a_sample_is_of_the_whole_length(count, monkeypatch):
    """Every value counts where there are few, the first always does."""
    monkeypatch.setattr(fingerprint, "SAMPLE", 8)
    value = normal(count)
    told = []
    for place in range(count):
        other = value.copy()
        other[place] += 1
        if digest(other, sampled=True) != digest(value, sampled=True):
            told.append(place)
    step = -(-count // 8)
    assert told == list(range(0, count, step))
    assert digest(value + 1, sampled=True) != digest(value, sampled=True)


def test_a_large_base_is_sampled_and_its_file_says_so(tmp_path, monkeypatch):
    def make():
        base = functional()
        set_random(base.weights)
        return base

    path = tmp_path / "task"
    monkeypatch.setattr(fingerprint, "WHOLE_BELOW", 100)
    monkeypatch.setattr(fingerprint, "SAMPLE", 8)
    keras_lora.save_adapter(
        fill(keras_lora.inject(make(), LoRAConfig(2))), path
    )
    assert keras_lora.inspect_adapter(path).base["sampled"] is True
    monkeypatch.undo()
    # As the file says, whatever is a large base here and now.
    monkeypatch.setattr(fingerprint, "SAMPLE", 8)
    assert keras_lora.load_adapter(make(), path).trainable_variables
    other = make()
    kernel = other.get_layer("stem").kernel
    kernel.assign(kernel + 1)
    with pytest.raises(ValueError, match="stem/kernel: other values"):
        keras_lora.load_adapter(other, path)


def test_differences_name_each_variable_once():
    ours = {"a": digest(normal(2)), "b": digest(normal(3)), "c": digest([1.0])}
    theirs = {
        "a": digest(normal(2, seed=1)),
        "b": digest(normal(4)),
        "d": digest([1.0]),
    }
    assert fingerprint.differences(ours, ours) == []
    assert fingerprint.differences(ours, theirs) == [
        "a: other values",
        "b: shape [4], expected [3]",
        "c: missing from this base",
    ]
    half = {"c": digest([1.0], "float16")}
    assert fingerprint.differences({"c": ours["c"]}, half) == [
        "c: dtype float16, expected float32"
    ]
