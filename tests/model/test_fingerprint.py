"""The digest of a base: alike for equal bases, and what it tells apart."""

import hashlib

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


def wide():
    """A base with a kernel that is hashed in another thread."""
    base = keras.Sequential(
        [keras.Input((600,)), keras.layers.Dense(600, name="wide")]
    )
    set_random(base.weights)
    return base


def change_in_place(variable):
    """Changes one value, where the backend can without another array."""
    if keras.backend.backend() == "torch":
        variable.value.data[7, 7] += 1
    elif keras.backend.backend() == "tensorflow":
        change = np.zeros(variable.shape, "float32")
        change[7, 7] = 1
        variable.value.assign_add(change)
    else:
        value = np.array(variable.value)
        value[7, 7] += 1
        variable.assign(value)


def test_many_variables_have_the_hashes_that_each_has(monkeypatch):
    values = {"wide": normal(900, 500), "small": normal(3), "none": normal(0)}
    variables = {name: variable(value) for name, value in values.items()}
    expected = {
        name: hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()
        for name, value in values.items()
    }
    found = fingerprint.hash_all(variables, False)
    assert {name: entry[2] for name, entry in found.items()} == expected
    assert found["wide"][:2] == ["float32", [900, 500]]

    def none_starts(*_):
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(fingerprint.ThreadPoolExecutor, "submit", none_starts)
    assert fingerprint.hash_all(variables, False) == found


def test_half_precision_is_hashed_as_it_lies_in_memory():
    value = normal(40, 30)
    made = variable(value, "bfloat16")
    bits = (
        value.view("uint32") + 0x7FFF + (value.view("uint32") >> 16 & 1)
    ) >> 16
    expected = hashlib.blake2b(bits.astype("uint16").tobytes(), digest_size=8)
    assert fingerprint.digest(made, False)[2] == expected.hexdigest()


def test_a_change_between_two_doors_is_noticed(tmp_path):
    base, path = wide(), tmp_path / "task"
    fill(keras_lora.inject(base, LoRAConfig(2)))
    keras_lora.save_adapter(base, path)
    keras_lora.load_adapter(base, path)
    change_in_place(base.get_layer("wide").kernel)
    with pytest.raises(ValueError, match="since `inject`: wide/kernel: other"):
        keras_lora.save_adapter(base, tmp_path / "other")
    with pytest.raises(ValueError, match="wide/kernel: other values"):
        keras_lora.load_adapter(base, path)
    keras_lora.eject(base)
    with pytest.raises(ValueError, match="wide/kernel: other values"):
        keras_lora.load_adapter(base, path)
    bank = keras_lora.AdapterBank(base)
    with pytest.raises(ValueError, match="wide/kernel: other values"):
        bank.load("task", path)
    assert not (tmp_path / "other").exists()


def test_what_load_adapter_attached_is_held_against_its_base(tmp_path):
    """A loaded adapter's base is known by what was hashed to find it."""
    base, path = wide(), tmp_path / "task"
    keras_lora.save_adapter(fill(keras_lora.inject(base, LoRAConfig(2))), path)
    outer = keras.Sequential([keras_lora.eject(base), keras.layers.ReLU()])
    keras_lora.load_adapter(outer, path)
    keras_lora.save_adapter(outer, tmp_path / "again")
    change_in_place(base.get_layer("wide").kernel)
    with pytest.raises(ValueError, match="since `inject`: wide/kernel: other"):
        keras_lora.save_adapter(outer, path)
