"""Files combined as values: exact side by side, truncated by SVD."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import LoRAConfig
from tests.banks import bottleneck, call, dense_head, off, rows, served
from tests.models import set_random


def make(seed=0):
    """A base with dense, einsum and table hosts."""
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 6, name="table")(inputs)
    x = layers.EinsumDense("bld,dhk->blhk", (5, 2, 3), name="einsum")(x)
    x = layers.Dense(4, name="first")(layers.Reshape((5, 6))(x))
    base = keras.Model(inputs, layers.Dense(3, name="last")(x))
    set_random(base.weights, seed)
    return base


def save(path, config, head=None, seed=1, base=None):
    """An adapter file with random values, and its updates by layer."""
    base = base or make()
    keras_lora.inject(base, config)
    model = head(base) if head else base
    set_random(model.trainable_variables, seed)
    keras_lora.save_adapter(model, path)
    return path


def updates(path):
    """The update of each layer that a file holds, as a matrix."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    info = keras_lora.inspect_adapter(path)
    return {
        layer: tensors[f"{layer}/lora_a"].astype("float64")
        @ tensors[f"{layer}/lora_b"]
        * (settings["alpha"] / settings["rank"])
        for layer, settings in info.layers.items()
    }


@pytest.fixture
def files(tmp_path):
    """Three adapters of other ranks, targets and scales."""
    configs = {
        "a": LoRAConfig(2, targets=["table", "first", "einsum"]),
        "b": LoRAConfig(3, alpha=5, targets=["first", "last"]),
        "c": LoRAConfig(1, scale="rslora", dropout=0.5),
    }
    return {
        name: save(tmp_path / name, config, seed=ord(name))
        for name, config in configs.items()
    }


WEIGHTS = {"a": 0.5, "b": -1.25, "c": 2}


def weighted_sum(files):
    total = {}
    for name, weight in WEIGHTS.items():
        for layer, update in updates(files[name]).items():
            total[layer] = total.get(layer, 0) + weight * update
    return total


def pairs(files):
    return [(files[name], weight) for name, weight in WEIGHTS.items()]


def test_cat_is_the_weighted_sum_of_the_updates(files, tmp_path):
    result = keras_lora.combine(pairs(files), tmp_path / "out")
    assert (result.kept, result.rank) == (1, 6)
    got, want = updates(tmp_path / "out"), weighted_sum(files)
    assert got.keys() == want.keys()
    for layer in want:
        assert np.abs(want[layer]).max() > 0.1
        np.testing.assert_allclose(got[layer], want[layer], rtol=0, atol=1e-6)
    ranks = keras_lora.inspect_adapter(tmp_path / "out").layers
    assert {layer: s["rank"] for layer, s in ranks.items()} == {
        "table": 2,
        "first": 6,
        "einsum": 3,
        "last": 4,
    }


def test_a_combined_file_loads_merges_and_serves(files, tmp_path):
    keras_lora.combine(pairs(files), tmp_path / "out")
    base, x = make(), np.arange(20).reshape(4, 5).astype("int32") % 11
    plain = call(base, x)
    keras_lora.load_adapter(base, tmp_path / "out")
    adapted = call(base, x)
    assert off(adapted, plain) > 1e-2
    keras_lora.eject(base)
    with served(base) as bank:
        bank.load("out", tmp_path / "out")
        assert off(bank.predict(x, adapter="out"), adapted) < 1e-5
    keras_lora.merge(keras_lora.load_adapter(base, tmp_path / "out"))
    assert off(call(base, x), adapted) < 1e-5


def test_svd_keeps_the_largest_directions_and_says_how_much(files, tmp_path):
    want = weighted_sum(files)
    values = {
        layer: np.linalg.svd(update, compute_uv=False)
        for layer, update in want.items()
    }
    result = keras_lora.combine(
        pairs(files), tmp_path / "out", method="svd", rank=2
    )
    kept = sum(float((s[:2] ** 2).sum()) for s in values.values())
    total = sum(float((s**2).sum()) for s in values.values())
    assert 0.5 < result.kept < 1
    assert result.kept == pytest.approx(kept / total)
    assert f"keeps {100 * kept / total:.2f} %" in str(result)
    for layer, update in updates(tmp_path / "out").items():
        lost = np.linalg.norm(update - want[layer])
        assert lost == pytest.approx(
            np.linalg.norm(values[layer][2:]), abs=1e-5
        )


def test_svd_of_a_rank_that_suffices_is_exact(files, tmp_path):
    result = keras_lora.combine(
        pairs(files), tmp_path / "out", method="svd", rank=6
    )
    assert result.kept == pytest.approx(1)
    for layer, update in updates(tmp_path / "out").items():
        want = weighted_sum(files)[layer]
        np.testing.assert_allclose(update, want, rtol=0, atol=1e-5)


def test_an_adapter_less_itself_is_the_base(files, tmp_path):
    path = files["b"]
    keras_lora.combine([(path, 1), (path, -1.0)], tmp_path / "out")
    x = np.arange(10).reshape(2, 5).astype("int32")
    loaded = keras_lora.load_adapter(make(), tmp_path / "out")
    assert off(call(loaded, x), call(make(), x)) < 1e-6


def test_the_one_head_is_kept_and_of_several_one_is_named(tmp_path):
    config = LoRAConfig(2, targets=["first"])
    with_head = functools.partial(save, config=config)
    one = with_head(tmp_path / "one", head=dense_head(2), seed=1)
    two = with_head(tmp_path / "two", head=dense_head(2), seed=2)
    none = with_head(tmp_path / "none", seed=3)
    out = tmp_path / "out"

    def kernel(path):
        head = keras_lora.inspect_adapter(path).build_head()
        return head.get_weights()[0]

    keras_lora.combine([(none, 1), (one, 1)], out)
    np.testing.assert_array_equal(kernel(out), kernel(one))
    keras_lora.combine([(one, 1), (two, 1)], out, head=1)
    np.testing.assert_array_equal(kernel(out), kernel(two))
    keras_lora.combine([(one, 1), (two, 1)], out, head=False)
    assert keras_lora.inspect_adapter(out).head is None
    for parts, head in (
        ([(one, 1), (two, 1)], None),
        ([(none, 1), (two, 1)], 0),
        ([(one, 1)], True),
    ):
        with pytest.raises(ValueError, match="`head` must be the number"):
            keras_lora.combine(parts, tmp_path / "refused", head=head)
    assert not (tmp_path / "refused").exists()


def test_everything_wrong_is_listed_and_nothing_is_written(tmp_path):
    config = LoRAConfig(2, targets=["first"])
    good = save(tmp_path / "good", config)
    foreign = save(tmp_path / "foreign", config, base=make(seed=8))
    wide = save(tmp_path / "wide", bottleneck(2, targets=["first"]))
    trains = tmp_path / "trains"
    base = keras_lora.inject(make(), config, train=["last"])
    keras_lora.save_adapter(base, trains)
    out = tmp_path / "out"
    with pytest.raises(ValueError) as error:
        keras_lora.combine([(p, 1) for p in (good, foreign, wide, trains)], out)
    for words in (
        "foreign is for another base: ",
        "wide: holds bottleneck weights",
        "trains: trained layers too: last",
    ):
        assert words in str(error.value)
    with pytest.raises(ValueError) as error:
        keras_lora.combine(
            [(good, True), (good, float("nan"))], out, method="mean", rank=0
        )
    for words in ("weight of", "True", "nan", "method='mean'", "rank=0"):
        assert words in str(error.value)
    for arguments in ({"method": "svd"}, {"method": "svd", "rank": 0}):
        with pytest.raises(ValueError, match="`rank` must be an int"):
            keras_lora.combine([(good, 1)], out, **arguments)
    for parts in ([], "good", [good], [(good,)]):
        with pytest.raises(ValueError, match="pairs of a file and a weight"):
            keras_lora.combine(parts, out)
    assert not out.exists()


def test_rows_of_a_served_combination_have_the_kept_head(tmp_path):
    base = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    set_random(base.weights)
    x = rows(4)
    for name, head in (("a", dense_head(3)), ("b", None)):
        save(tmp_path / name, LoRAConfig(2), head, seed=ord(name), base=base)
        keras_lora.eject(base)
    parts = [(tmp_path / "a", 0.5), (tmp_path / "b", 0.5)]
    keras_lora.combine(parts, tmp_path / "out")
    with served(base) as bank:
        bank.load("out", tmp_path / "out")
        assert bank.predict(x, adapter="out").shape == (4, 3)
