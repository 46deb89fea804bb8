"""Mixed batches on every kind of base: each row is its own task's."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_lora
from tests.banks import (
    assert_rows,
    bottleneck,
    call,
    dense_head,
    lora,
    make_task,
    off,
    rows,
    served,
)
from tests.marks import pairs
from tests.models import KINDS, alone, hub, register, set_random

TORCH = keras.backend.backend() == "torch"
NAMES = ["a", None, "c", "d", "b", "a", None, "c"]


def twice(x):
    """A batch and the same rows backwards, so that rows outnumber tasks."""
    return keras.tree.map_structure(lambda v: np.concatenate([v, v[::-1]]), x)


def check_mixed(base, x, tasks, tolerance=1e-5, cut=True):
    """Serves tasks in one batch, and in cut ones; rows are their own's."""
    base_outputs = call(base, x)
    names = [name if name in tasks else None for name in NAMES]
    with served(base) as bank:
        for name, task in tasks.items():
            bank.load(name, task.path)
        got = bank.predict(x, adapter=names)
        assert_rows(got, names, tasks, base_outputs, tolerance)
        if cut:
            got = bank.predict(x, adapter=names[::-1], batch_size=3)
            assert_rows(got, names[::-1], tasks, base_outputs, tolerance)


QUICK = (
    "functional",
    "nested",
    "flattened",
    "subclassed",
    "block_without_build",
    "shared_layer",
    "recurrent",
    "convolutions",
    "bert_classifier",
    "gemma",
)


@pytest.mark.parametrize("name", pairs(QUICK, KINDS))
def test_rows_are_their_own_tasks(name, tmp_path):
    kind = KINDS[name]
    base, x = kind.base(), twice(kind.inputs())
    configs = {"a": lora(2, targets=kind.lora)}
    if kind.outputs:
        configs["c"] = bottleneck(2, targets=kind.outputs, activation="tanh")
    else:
        configs["b"] = lora(3, targets=kind.lora)
    tasks = {
        name: make_task(
            base,
            tmp_path / f"{name}.safetensors",
            config,
            x,
            head=None if kind.around is alone else kind.model,
            seed=ord(name),
            size=0.2,
        )
        for name, config in configs.items()
    }
    check_mixed(base, x, tasks, cut=False)


def two_tasks(base, tmp_path, x, targets="all-linear", **options):
    return {
        name: make_task(
            base,
            tmp_path / f"{name}.safetensors",
            lora(rank, targets=targets),
            x,
            seed=ord(name),
            **options,
        )
        for name, rank in (("a", 1), ("b", 3))
    }


def multi_input():
    left, right = keras.Input((6,), name="left"), keras.Input((5, 4))
    x = layers.Dense(8, activation="tanh")(left)
    y = layers.Flatten()(layers.Dense(3, activation="tanh")(right))
    y = layers.Dense(2)(layers.Concatenate()([x, y]))
    return keras.Model([left, right], {"sum": y, "left": layers.Dense(3)(x)})


def test_several_inputs_and_outputs_in_a_dict(tmp_path):
    base = multi_input()
    set_random(base.weights)
    x = [rows(8), rows(8, 5, 4)]
    check_mixed(base, x, two_tasks(base, tmp_path, x))


EQUATIONS = {
    "permuted kernel": ("bld,hdk->blhk", (5, 2, 3), (5, 4)),
    "permuted output": ("bld,dhk->bhlk", (2, 5, 3), (5, 4)),
    "two axes in": ("blhk,hkd->bld", (5, 6), (5, 2, 3)),
    "axes in, the other way": ("blhk,khd->bld", (5, 6), (5, 2, 3)),
    "axis shared with the kernel": ("blhd,hdk->blhk", (5, 2, 3), (5, 2, 4)),
    "axis kept and not summed": ("bld,ld->bl", (5,), (5, 4)),
    "any axes": ("...d,dk->...k", (5, 2, 7), (5, 2, 3)),
    "no common axis": ("ab,c->abc", (4, 3), (4,)),
}


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum_dense(equation, tmp_path):
    einsum, shape_out, shape_in = EQUATIONS[equation]
    inputs = keras.Input(shape_in)
    y = layers.EinsumDense(einsum, shape_out, activation="tanh")(inputs)
    base = keras.Model(inputs, y)
    set_random(base.weights)
    x = rows(8, *shape_in)
    check_mixed(base, x, two_tasks(base, tmp_path, x))


@pytest.mark.parametrize("units", [3, 8])
def test_rows_without_a_sequence_axis(units, tmp_path):
    inputs = keras.Input((6,))
    base = keras.Model(inputs, layers.Dense(units)(inputs))
    set_random(base.weights)
    x = rows(8)
    check_mixed(base, x, two_tasks(base, tmp_path, x))


class Windows(layers.Layer):
    """Folds windows of a sequence into the batch, as Swin does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mix = layers.Dense(4, activation="tanh")
        self.attend = layers.MultiHeadAttention(2, 2)

    def build(self, shape):
        self.mix.build((None, 3, shape[-1]))
        self.attend.build((None, 3, 4), (None, 3, 4))

    def call(self, x):
        size = ops.shape(x)
        y = self.mix(ops.reshape(x, (-1, 3, x.shape[-1])))
        return ops.reshape(self.attend(y, y), (size[0], size[1], 4))

    def compute_output_shape(self, shape):
        return (*shape[:-1], 4)


def folded():
    inputs = keras.Input((6, 5))
    x = Windows(name="windows")(inputs)
    x = layers.Reshape((24,))(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def fully_folded():
    """All positions in the batch axis: `(b, s, d)` to `(b s, d)`."""
    inputs = keras.Input((6, 5))
    x = ops.reshape(inputs, (-1, 5))
    x = layers.Dense(4, activation="tanh")(x)
    x = layers.EinsumDense("ab,cb->ac", 4, activation="tanh")(x)
    return keras.Model(inputs, ops.reshape(x, (-1, 6, 4)))


@pytest.mark.parametrize("build", [folded, fully_folded])
def test_layers_that_fold_axes_into_the_batch(build, tmp_path):
    base = build()
    set_random(base.weights)
    x = rows(8, 6, 5)
    check_mixed(base, x, two_tasks(base, tmp_path, x))


def test_bottleneck_on_folded_axes(tmp_path):
    base = folded()
    set_random(base.weights)
    x = rows(8, 6, 5)
    tasks = {
        name: make_task(
            base,
            tmp_path / f"{name}.safetensors",
            bottleneck(2, targets=["windows/dense", "windows"]),
            x,
            seed=ord(name),
        )
        for name in "ab"
    }
    check_mixed(base, x, tasks)


@pytest.mark.parametrize("shape", [(7,), (5, 5, 4), (4, 4, 4, 2)])
def test_convolutions_of_every_dimension(shape, tmp_path):
    dimensions = len(shape) - 1
    if dimensions == 0:
        shape, dimensions = (7, 4), 1
    conv = getattr(layers, f"Conv{dimensions}D")
    inputs = keras.Input(shape)
    x = conv(4, 2, strides=2, activation="tanh", padding="same")(inputs)
    x = conv(6, 2, groups=2, padding="same")(x)
    base = keras.Model(inputs, layers.Flatten()(x))
    set_random(base.weights)
    x = rows(8, *shape)
    names = [f"conv{dimensions}d", f"conv{dimensions}d_1"]
    check_mixed(base, x, two_tasks(base, tmp_path, x, names))


def test_numbers_outside_of_a_table_reach_no_other_adapter(tmp_path):
    base = keras.Sequential(
        [keras.Input((3,), dtype="int32"), layers.Embedding(11, 6, name="e")]
    )
    set_random(base.weights)
    x = np.array([[3, -1, 5], [-2, 0, 10]] * 4)  # -1 is the last row
    tasks = two_tasks(base, tmp_path, x, ["e"])
    check_mixed(base, x, tasks)


def test_inputs_by_name_where_the_base_has_a_list(tmp_path):
    inputs = [keras.Input((4,), name="b"), keras.Input((4,), name="a")]
    base = keras.Model(
        inputs,
        layers.Dense(3, name="y")(
            layers.Dense(5, "tanh", name="h")(inputs[0]) - 2 * inputs[1][:, :1]
        ),
    )
    set_random(base.weights)
    x = {"a": rows(4, 4, seed=1), "b": rows(4, 4, seed=2)}
    listed = [x["b"], x["a"]]
    task = make_task(base, tmp_path / "task", lora(), listed)
    with served(base) as bank:
        bank.load("task", task.path)
        assert off(bank.predict(x, adapter="task"), task.outputs) <= 1e-5
        assert off(bank.predict(listed, adapter="task"), task.outputs) <= 1e-5
        assert off(bank.predict(x), base.predict(x, verbose=0)) <= 1e-5
        assert off(bank.predict_all(x)["task"], task.outputs) <= 1e-5
        with pytest.raises(ValueError, match="no input 'b'"):
            bank.predict({"a": x["a"]})


def test_tied_embedding_both_ways(tmp_path):
    keras_hub = hub()
    table = keras_hub.layers.ReversibleEmbedding(11, 8, name="table")
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Dense(8, activation="tanh")(table(inputs))
    base = keras.Model(inputs, table(x, reverse=True))
    set_random(base.weights)
    x = np.random.default_rng(1).integers(0, 11, (8, 5), "int32")
    check_mixed(base, x, two_tasks(base, tmp_path, x, ["table", "dense"]))


def test_sequences_of_any_length(tmp_path):
    inputs = keras.Input((None, 6))
    x = layers.Dense(6, activation="tanh")(inputs)
    base = keras.Model(inputs, layers.MultiHeadAttention(2, 3)(x, x))
    set_random(base.weights)
    x = rows(8, 7, 6)
    check_mixed(base, x, two_tasks(base, tmp_path, x))


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_quantized_base(mode, tmp_path):
    if TORCH and mode == "int4":
        pytest.skip("Keras packs int4 on TensorFlow and JAX")
    base = keras.Sequential(
        [
            keras.Input((5, 6)),
            layers.Dense(8, activation="tanh"),
            layers.EinsumDense("bld,dhk->blhk", (5, 2, 3)),
        ]
    )
    set_random(base.weights)
    base.quantize(mode)
    x = rows(8, 5, 6)
    check_mixed(base, x, two_tasks(base, tmp_path, x), tolerance=1e-4)


def test_base_of_16_bits(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        base = keras.Sequential(
            [
                keras.Input((5, 6)),
                layers.Dense(8, activation="tanh"),
                layers.Dense(4),
            ]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    set_random(base.weights)
    x = rows(8, 5, 6)
    tasks = two_tasks(base, tmp_path, x, size=0.5)
    check_mixed(base, x, tasks, tolerance=2e-2)


@register
class Passing(keras.Model):
    """Passes inputs on by name, with an argument that is no tensor."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(11, 6)
        self.last = layers.Dense(3)

    def call(self, inputs, scale=1.0):
        x = self.table(inputs["words"]) * scale
        return {"y": self.last(x) + inputs["more"][:, None]}


def test_subclassed_base_with_a_dict_of_inputs(tmp_path):
    base = Passing()
    x = {
        "words": np.random.default_rng(1).integers(0, 11, (8, 5), "int32"),
        "more": rows(8, 3),
    }
    call(base, x)
    set_random(base.weights)
    targets = ["embedding", "dense"]
    check_mixed(base, x, two_tasks(base, tmp_path, x, targets))


def test_heads_of_any_width_and_kind(tmp_path):
    base = keras.Sequential(
        [keras.Input((5, 6)), layers.Dense(8, activation="tanh")]
    )
    set_random(base.weights)
    x = rows(8, 5, 6)

    def pooled(base):
        y = layers.GlobalAveragePooling1D()(base.output)
        y = layers.Dropout(0.5)(y)
        y = layers.BatchNormalization()(y)
        return keras.Model(base.input, layers.Dense(2, activation="softmax")(y))

    heads = {
        "a": dense_head(3),
        "b": dense_head(7, 1, activation="tanh"),
        "c": pooled,
        "d": None,
    }
    tasks = {
        name: make_task(
            base,
            tmp_path / f"{name}.safetensors",
            lora(),
            x,
            head=head,
            seed=ord(name),
        )
        for name, head in heads.items()
    }
    shapes = [task.outputs.shape[1:] for task in tasks.values()]
    assert shapes == [(5, 3), (5, 1), (2,), (5, 8)]
    check_mixed(base, x, tasks)
    with served(base) as bank:
        bank.load("c", tasks["c"].path)
        got = bank.predict(x, adapter="c")
        assert got.shape == (8, 2)
        assert_rows(got, ["c"] * 8, tasks, None)


def test_head_on_the_second_output(tmp_path):
    inputs = keras.Input((6,))
    x = layers.Dense(5, activation="tanh")(inputs)
    base = keras.Model(inputs, [x, layers.Dense(7)(x)])
    set_random(base.weights)
    x = rows(8)

    def build(base):
        return keras.Model(base.input, layers.Dense(2)(base.outputs[1]))

    tasks = {
        name: make_task(
            base,
            tmp_path / f"{name}.safetensors",
            lora(),
            x,
            head=build,
            seed=ord(name),
        )
        for name in "ab"
    }
    check_mixed(base, x, tasks)


def test_lora_and_bottleneck_share_a_layer(tmp_path):
    base = KINDS["functional"].base()
    x = twice(KINDS["functional"].inputs())
    configs = {
        "a": lora(1, targets=["stem"]),
        "b": lora(4, targets=["stem", "logits"]),
        "c": bottleneck(5, targets=["stem"]),
        "d": bottleneck(2, targets=["stem", "branch"], activation="gelu"),
    }
    tasks = {
        name: make_task(
            base, tmp_path / f"{name}.safetensors", config, x, seed=ord(name)
        )
        for name, config in configs.items()
    }
    check_mixed(base, x, tasks)


def test_served_base_saves_as_the_plain_one(tmp_path):
    base = KINDS["functional"].base()
    x = KINDS["functional"].inputs()
    task = make_task(base, tmp_path / "a.safetensors", lora(), x)
    before = call(base, x)
    with served(base) as bank:
        bank.load("a", task.path)
        base.save(tmp_path / "base.keras")
        base.save_weights(tmp_path / "base.weights.h5")
    again = keras.saving.load_model(tmp_path / "base.keras")
    assert [type(la) for la in again.layers] == [type(la) for la in base.layers]
    np.testing.assert_array_equal(call(again, x), before)
    set_random(base.weights, seed=9)
    base.load_weights(tmp_path / "base.weights.h5")
    np.testing.assert_array_equal(call(base, x), before)
    assert isinstance(keras_lora.inject(base, lora()), keras.Model)
