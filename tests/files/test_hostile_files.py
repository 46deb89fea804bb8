"""What no adapter file may do, whoever wrote it.

Each input ends in a clean load or in keras_lora's own error, and after a
refusal the model or bank is the same to the bit. `benchmarks/fuzz.py` gives
thousands of such inputs; here are some of each kind.
"""

import copy
import json
import os
import random
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_lora
from benchmarks import arena as arenas
from benchmarks import hostile, odd_parts
from keras_lora import AdapterConfig, LoRAConfig
from keras_lora.files import container
from keras_lora.files import format as adapter_file
from tests.helpers import fill, normal, numpy_of, state

# Forged numbers overflow on the way; what comes of them is looked at.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    return arenas.Arena(tmp_path_factory.mktemp("arena"))


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_every_kind_of_hostile_file_is_loaded_or_refused(arena, kind):
    for number in range(3 if kind in hostile.RARE else 30):
        chance = random.Random(f"{kind}/{number}")
        name = chance.choice(list(arenas.GOOD))
        data = hostile.KINDS[kind](chance, arena.good[name])
        arena.give(kind, data, name, bare=number % 10 == 0)


def test_the_arena_tells_a_changed_model(arena):
    """Otherwise the tests of this file would pass on anything."""
    model = arena.models["lora"]
    before = arena.state(model)
    kernel = model.layers[0].get_layer("stem").lora_b
    kept = numpy_of(kernel)
    kernel.assign(kept + 1e-6)
    changed = arena.state(model)
    kernel.assign(kept)
    assert changed != before
    assert arena.state(model) == before


numbers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(odd_parts.NUMBERS),
)
texts = st.one_of(st.text(max_size=20), st.sampled_from(odd_parts.TEXTS))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda child: st.one_of(
        st.lists(child, max_size=4),
        st.dictionaries(texts, child, max_size=4),
    ),
    max_leaves=8,
)
some = settings(max_examples=120)


@st.composite
def spoiled(draw, nest):
    """A nest with some of its parts replaced, removed or renamed."""
    nest = copy.deepcopy(nest)
    for _ in range(draw(st.integers(1, 3))):
        found = odd_parts.places(nest)
        if not found:
            break
        holder, key = draw(st.sampled_from(found))
        act = draw(st.sampled_from(["replace", "replace", "remove", "rename"]))
        if act == "remove":
            del holder[key]
        elif act == "rename" and isinstance(holder, dict):
            holder[draw(texts)] = holder.pop(key)
        else:
            holder[key] = draw(values)
    return nest


@pytest.mark.slow
@some
@given(data=st.data(), name=st.sampled_from(list(arenas.GOOD)))
def test_any_json_in_the_record_is_loaded_or_refused(arena, data, name):
    header, record, body = odd_parts.parts(arena.good[name])
    record = data.draw(spoiled(record))
    arena.give("record", odd_parts.joined(header, record, body), name)


@some
@given(data=st.data(), name=st.sampled_from(list(arenas.GOOD)))
def test_any_json_in_the_header_is_loaded_or_refused(arena, data, name):
    header, _, body = odd_parts.parts(arena.good[name])
    header = data.draw(spoiled(header))
    arena.give("header", odd_parts.raw(json.dumps(header), body), name)


@pytest.mark.slow
@some
@given(config=st.dictionaries(st.sampled_from(odd_parts.SETTINGS), values))
def test_any_config_of_a_head_is_loaded_or_refused(arena, config):
    header, record, body = odd_parts.parts(arena.good["lora"])
    record["head"]["layers"][1]["config"].update(config)
    arena.give("head", odd_parts.joined(header, record, body))


@settings(max_examples=60)
@given(data=st.binary(max_size=400))
def test_any_bytes_are_refused(arena, data):
    arena.give("bytes", data)
    assert arena.outcomes["bytes", "inspect_adapter", "loaded"] == 0


# What came out of the fuzzer, one by one.


def make():
    keras.utils.set_random_seed(3)
    i = keras.Input((6,))
    y = layers.Dense(8, activation="tanh", name="stem")(i)
    return keras.Model(i, layers.Dense(4, name="branch")(y))


def saved(path, config, head=(), base=None):
    base = fill(keras_lora.inject(base or make(), config))
    model = keras.Sequential([base, *head]) if head else base
    keras_lora.save_adapter(model, path)
    return path


def changed(path, change):
    """A file with its record and tensors changed by a function."""
    _, record, _ = odd_parts.parts(path.read_bytes())
    tensors = odd_parts.tensors_of(path.read_bytes())
    change(record, tensors)
    path.write_bytes(odd_parts.rebuilt(record, tensors))
    return path


def refused(act, *words):
    with pytest.raises(ValueError) as error:
        act()
    assert arenas.is_own(error.value)
    for word in words:
        assert word in str(error.value), str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["no_such", "glu", "get", ""])
def test_an_activation_that_does_not_fit_breaks_no_bank(tmp_path, name):
    bottleneck = AdapterConfig(2, targets=["stem"])
    good = saved(tmp_path / "good", bottleneck)
    bad = saved(tmp_path / "bad", bottleneck)
    changed(bad, lambda r, _: r["layers"]["stem"].update(activation=name))
    bank = keras_lora.AdapterBank(make())
    bank.load("good", good)
    before = bank.predict(normal(3, 6), adapter="good")
    refused(lambda: bank.load("bad", bad), "activation")
    refused(lambda: keras_lora.load_adapter(make(), bad), "activation")
    assert bank.names == ["good"]
    after = bank.predict(normal(3, 6), adapter="good")
    np.testing.assert_array_equal(before, after)


def test_factors_that_do_not_go_together_are_not_combined(tmp_path):
    good = saved(tmp_path / "good", LoRAConfig(2))
    new = tmp_path / "new"
    size = np.zeros((6, 3), "float32").tobytes()
    a = "stem/lora_a"
    for change in (
        lambda r, t: t.pop(a),
        lambda r, t: t.update({a: ("F32", [6, 3], size)}),
        lambda r, t: t.update({a: ("F32", [3, 6], size)}),
        lambda r, t: t.update({a: ("F32", [18], size)}),
        lambda r, t: r["layers"]["stem"].update(alpha=1e37),
        lambda r, t: (r["layers"].clear(), t.clear()),
    ):
        bad = changed(saved(tmp_path / "bad", LoRAConfig(2)), change)
        refused(lambda b=bad: keras_lora.combine([(good, 1), (b, 1e3)], new))
        refused(lambda b=bad: keras_lora.combine([(b, 1e3)], new))
    assert not new.exists()


@pytest.mark.parametrize("dtype", ["F8_E5M2", "C64", "I32", "F16", "F64"])
def test_adapter_weights_are_float32(tmp_path, dtype):
    def change(record, tensors):
        _, shape, _ = tensors["stem/lora_a"]
        size = int(np.prod(shape)) * odd_parts.DTYPES[dtype]
        tensors["stem/lora_a"] = (dtype, shape, bytes(size))

    bad = changed(saved(tmp_path / "bad", LoRAConfig(2)), change)
    refused(lambda: keras_lora.inspect_adapter(bad), "stem/lora_a", dtype)


def test_a_head_of_whole_numbers_is_refused(tmp_path):
    def change(record, tensors):
        _, shape, data = tensors["@head/0/kernel"]
        tensors["@head/0/kernel"] = ("I32", shape, data)

    bad = saved(tmp_path / "bad", LoRAConfig(2), [layers.Dense(3)])
    changed(bad, change)
    model = keras.Sequential([make(), layers.Dense(3)])
    before = state(model)
    refused(lambda: keras_lora.load_adapter(model, bad), "@head/0/kernel")
    refused(keras_lora.inspect_adapter(bad).build_head, "kernel", "int32")
    assert state(model) == before


def test_values_that_float16_cannot_hold_are_refused(tmp_path):
    bad = saved(tmp_path / "bad", LoRAConfig(2), [layers.Dense(3)])
    data = np.full((4, 3), 1e30, "float32").tobytes()
    changed(
        bad, lambda _, t: t.update({"@head/0/kernel": ("F32", [4, 3], data)})
    )
    model = keras.Sequential([make(), layers.Dense(3, dtype="float16")])
    model.build((None, 6))
    refused(lambda: keras_lora.load_adapter(model, bad), "beyond float16")
    wide = keras.Sequential([make(), layers.Dense(3)])
    keras_lora.load_adapter(wide, bad)


@pytest.mark.parametrize("alpha", [1e300, 1e39, 1e-300])
def test_a_scale_beyond_float32_is_refused(tmp_path, alpha):
    bad = saved(tmp_path / "bad", LoRAConfig(2))
    changed(bad, lambda r, _: r["layers"]["stem"].update(alpha=alpha))
    refused(lambda: keras_lora.load_adapter(make(), bad), "out of range")


@pytest.mark.parametrize(
    "text", ["\x1b]0;owned\x07\x1b[2J", "\ud800", "a\rb", "\u202egnp"]
)
def test_a_terminal_is_told_nothing_by_a_file(tmp_path, text, capsys):
    from keras_lora import cli

    bad = saved(tmp_path / "bad", LoRAConfig(2))
    header, record, body = odd_parts.parts(bad.read_bytes())
    record["version"] = text
    bad.write_bytes(odd_parts.joined(header, record, body))
    assert cli.main(["inspect", str(bad)]) == 0
    record["layers"][text] = {"method": text}
    bad.write_bytes(odd_parts.joined(header, record, body))
    assert cli.main(["inspect", str(bad)]) == 1
    shown = "".join(capsys.readouterr())
    assert all(line.isprintable() for line in shown.splitlines())
    assert "keras_lora" in shown and "unknown method" in shown


def test_a_message_about_a_large_file_stays_short(tmp_path):
    path = saved(tmp_path / "bad", LoRAConfig(2))
    data = hostile.many_tensors(random.Random(5), path.read_bytes(), 20_000)
    path.write_bytes(data.replace(b"stem/t", b"none/t"))
    message = refused(lambda: keras_lora.load_adapter(make(), path), "more")
    assert len(message) < 100_000


def test_a_header_of_many_megabytes_is_not_parsed(tmp_path):
    path = saved(tmp_path / "bad", LoRAConfig(2))
    header, record, body = odd_parts.parts(path.read_bytes())
    record["extra"] = "x" * container.MAX_HEADER
    path.write_bytes(odd_parts.joined(header, record, body))
    refused(lambda: keras_lora.inspect_adapter(path), "header")
    path.write_bytes((10 << 30).to_bytes(8, "little") + body)
    refused(lambda: keras_lora.inspect_adapter(path), "header")


def test_a_record_nested_deep_is_refused(tmp_path):
    path = saved(tmp_path / "bad", LoRAConfig(2))
    header, record, body = odd_parts.parts(path.read_bytes())
    for depth in (20, 500, 100_000):
        record["extra"] = f"@deep {depth}@"
        path.write_bytes(odd_parts.joined(header, record, body))
        refused(lambda: keras_lora.inspect_adapter(path), "record")


def test_a_head_of_very_many_layers_is_refused_and_not_saved(tmp_path):
    path = saved(tmp_path / "bad", LoRAConfig(2), [layers.ReLU()])
    changed(
        path, lambda r, _: r["head"].update(layers=r["head"]["layers"] * 999)
    )
    refused(lambda: keras_lora.inspect_adapter(path), "`head` is malformed")
    many = [layers.ReLU() for _ in range(101)]
    saved(path, LoRAConfig(2), [layers.Dense(4), *many])
    info = keras_lora.inspect_adapter(path)
    assert info.head is None and info.outside


@pytest.mark.parametrize("key", ["kernel_initializer", "bias_regularizer"])
def test_a_head_has_nothing_to_run_for_training(tmp_path, key):
    path = saved(tmp_path / "bad", LoRAConfig(2), [layers.Dense(3)])

    def change(record, tensors):
        record["head"]["layers"][0]["config"][key] = "orthogonal"

    info = keras_lora.inspect_adapter(changed(path, change))
    refused(info.build_head, key)


MIXING = {
    "LayerNormalization": {"axis": 0, "center": False, "scale": False},
    "Softmax": {"axis": 0},
    "UnitNormalization": {"axis": 0},
    "Rescaling": {"scale": float("inf")},
}


@pytest.mark.parametrize("kind", MIXING)
def test_a_head_that_reads_other_rows_gets_into_no_bank(tmp_path, kind):
    """Those rows may be other tenants'; so does one that gives no numbers."""
    path = saved(tmp_path / "bad", LoRAConfig(2), [layers.ReLU()])
    entry = {"class": kind, "config": MIXING[kind], "input_shape": None}
    changed(path, lambda r, _: r["head"].update(layers=[entry]))
    bank = keras_lora.AdapterBank(make())
    refused(lambda: bank.load("bad", path), "its head")
    assert bank.names == []


def test_a_head_whose_settings_fail_at_the_first_call_is_refused(tmp_path):
    head = [layers.LayerNormalization()]
    path = saved(tmp_path / "bad", LoRAConfig(2), head)

    def change(record, tensors):
        record["head"]["layers"][0]["config"]["epsilon"] = "float32"

    changed(path, change)
    bank = keras_lora.AdapterBank(make())
    refused(lambda: bank.load("bad", path), "its head does not")


@pytest.mark.parametrize("reader", ["load_adapter", "bank", "build_head"])
@pytest.mark.parametrize("way", ["replaced", "gone", "cut"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path, monkeypatch, reader, way
):
    """Its tensors would go with another file's settings."""
    path = saved(tmp_path / "task", LoRAConfig(2), [layers.Dense(3)])
    other = tmp_path / "other"
    saved(other, LoRAConfig(2, alpha=1), [layers.Dense(3)])
    model = keras.Sequential([make(), layers.Dense(3)])
    base = make()
    bank = keras_lora.AdapterBank(base)
    before = state(model)
    real = adapter_file._parse

    def parse_and_change(*args):
        record = real(*args)
        if way == "replaced":
            os.replace(other, path)
        elif way == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-40])
        return record

    monkeypatch.setattr(adapter_file, "_parse", parse_and_change)
    act = {
        "load_adapter": lambda: keras_lora.load_adapter(model, path),
        "bank": lambda: bank.load("task", path),
        "build_head": lambda: keras_lora.inspect_adapter(path).build_head(),
    }[reader]
    word = {"replaced": "has changed", "gone": "No such file"}
    refused(act, str(path), word.get(way, "cannot be read"))
    assert state(model) == before
    assert bank.names == []


def test_no_warning_comes_of_a_refused_file(tmp_path):
    path = saved(tmp_path / "bad", LoRAConfig(2), [layers.Dense(3)])
    large = {"@head/0/kernel": ("F64", [4, 3], np.full(12, 1e300).tobytes())}
    changed(path, lambda _, tensors: tensors.update(large))
    info = keras_lora.inspect_adapter(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(info.build_head, "not finite")
