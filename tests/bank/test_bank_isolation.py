"""No row reaches another: what the probe refuses, and ids that are no slot."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_lora import AdapterBank
from tests.bank.test_bank import feeds_of
from tests.banks import (
    WIDTH,
    assert_rows,
    bottleneck,
    call,
    far_apart,
    loaded,
    lora,
    make_task,
    many_tasks,
    off,
    rows,
    sequential,
    served,
)
from tests.methods.contract import Facts
from tests.models import set_random

TORCH = keras.backend.backend() == "torch"


class BatchMean(layers.Layer):
    """Takes the mean over the batch away."""

    def call(self, x):
        return x - 0.1 * ops.mean(x, axis=0, keepdims=True)


class BatchNorm(layers.Layer):
    """Normalizes by the batch, also when it does not train."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.Dense(8)

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        y = self.norm(x)
        return (y - ops.mean(y, axis=0)) / (ops.std(y, axis=0) + 1e-3)


class Alone(layers.Layer):
    """What a class method does to every row by itself: nothing is mixed."""

    def call(self, x):
        return x - ops.mean(x, axis=-1, keepdims=True)


class TimeMajor(layers.Layer):
    """Runs its layers with time first: `(s, b, d)`."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        self.inner.build((shape[1], shape[0], shape[2]))

    def call(self, x):
        y = self.inner(ops.swapaxes(x, 0, 1))
        return ops.swapaxes(y, 0, 1)


class Neighbours(layers.Layer):
    """Adds the row before: nothing but the order of rows shows it."""

    def call(self, x):
        return x + 0.1 * ops.roll(x, 1, axis=0)


class OneForAll(layers.Layer):
    """Every row gets what the first one has."""

    def call(self, x):
        return x + 0 * x[:1] + 0.1 * x[:1]


def with_layer(layer, shape=(WIDTH,)):
    def build():
        x = inputs = keras.Input(shape)
        x = layers.Dense(8, activation="tanh", name="first")(x)
        inner_inputs = keras.Input((*shape[:-1], 8))
        inner = keras.Model(inner_inputs, layer()(inner_inputs), name="inner")
        return keras.Model(inputs, layers.Dense(3, name="last")(inner(x)))

    return build


def without_lora():
    """Mixes rows between layers that carry no LoRA."""
    inputs = keras.Input((5, WIDTH))
    x = layers.GRU(4, return_sequences=True)(inputs)
    x = BatchMean(name="mixer")(x)
    return keras.Model(inputs, layers.LayerNormalization()(x))


MIXING = {
    "batch mean": (with_layer(lambda: BatchMean(name="mixer")), "inner/mixer"),
    "batch statistics": (
        with_layer(lambda: BatchNorm(name="mixer")),
        "inner/mixer",
    ),
    "neighbours": (
        with_layer(lambda: Neighbours(name="mixer")),
        "inner/mixer",
    ),
    "one for all": (with_layer(lambda: OneForAll(name="mixer")), "inner/mixer"),
    "time major": (
        with_layer(
            lambda: TimeMajor(layers.Dense(8, name="mixer"), name="time"),
            (4, 6),
        ),
        "inner/time/mixer",
    ),
    "time major as long as a batch": (
        with_layer(
            lambda: TimeMajor(layers.Dense(8, name="mixer"), name="time"),
            (3, 6),
        ),
        "inner/time/mixer",
    ),
    "time major of any length": (
        with_layer(
            lambda: TimeMajor(layers.Dense(8, name="mixer"), name="time"),
            (None, 6),
        ),
        "inner/time/mixer",
    ),
    "no layer with LoRA": (without_lora, "mixer"),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_base_that_mixes_rows_is_refused_by_layer(name):
    build, path = MIXING[name]
    base = build()
    set_random(base.weights)
    x = rows(4, *[n or 5 for n in base.input_shape[1:]])
    before, outputs = Facts(base), call(base, x)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"layer '{path}'"):
            AdapterBank(base)
        before.assert_same(Facts(base))
        np.testing.assert_array_equal(call(base, x), outputs)


def test_a_base_that_mixes_rows_of_one_size_only_is_refused():
    """A reshape that swaps axes where the batch equals a width."""

    class Sometimes(layers.Layer):
        def call(self, x):
            return ops.transpose(x) if x.shape[0] == x.shape[1] else x

        def compute_output_shape(self, shape):
            return shape

    inputs = keras.Input((WIDTH,))
    x = layers.Dense(WIDTH)(inputs)
    x = Sometimes(name="sometimes")(x)
    base = keras.Model(inputs, layers.Dense(2)(x))
    set_random(base.weights)
    with pytest.raises(ValueError, match="mixes the rows of a batch of 6"):
        AdapterBank(base)


class Positions(layers.Layer):
    """A table of positions, looked up once for all rows."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.table = layers.Embedding(16, width, name="table")
        self.more = layers.Dense(width, name="more")

    def build(self, shape):
        self.table.build((None,))
        self.more.build((1, shape[1], shape[2]))

    def call(self, x):
        y = self.table(ops.arange(ops.shape(x)[1]))
        return x + self.more(ops.expand_dims(y, 0))


@pytest.mark.parametrize("length", [4, None])
def test_layers_that_see_no_rows_are_left_alone(length, tmp_path):
    inputs = keras.Input((length, WIDTH))
    x = layers.Dense(8, activation="tanh", name="first")(inputs)
    x = Positions(8, name="positions")(x)
    base = keras.Model(inputs, layers.Dense(3, name="last")(x))
    set_random(base.weights)
    x = rows(8, 4, WIDTH)
    tasks = {
        name: make_task(
            base,
            tmp_path / name,
            lora(targets=["first", "last"]),
            x,
            seed=ord(name),
        )
        for name in "ab"
    }
    table = make_task(base, tmp_path / "table", lora(targets=["table"]), x)
    every = make_task(base, tmp_path / "every", lora(), x)
    wide = make_task(base, tmp_path / "w", bottleneck(targets=["table"]), x)
    whole = make_task(
        base, tmp_path / "whole", bottleneck(targets=["positions"]), x
    )
    with served(base, rank=2) as bank:
        loaded(bank, tasks)
        names = ["a", None, "b", "a"] * 2
        got = bank.predict(x, adapter=names)
        assert_rows(got, names, tasks, call(base, x))
        for task, path in (
            (table, "positions/table"),
            (every, "positions/more"),
            (wide, "positions/table"),
        ):
            with pytest.raises(ValueError, match=f"{path}: its .* no rows"):
                bank.load("c", task.path)
        assert bank.names == ["a", "b"]
        bank.load("c", whole.path)
        assert off(bank.predict(x, adapter="c"), whole.outputs) <= 1e-5


def test_a_bottleneck_where_time_comes_first_is_refused(tmp_path):
    """No LoRA sits there, so that the base itself can be served."""

    class Inner(layers.Layer):
        def call(self, x):
            return 2 * x

    inputs = keras.Input((4, WIDTH))
    x = layers.Dense(8, name="first")(inputs)
    base = keras.Model(inputs, TimeMajor(Inner(name="inner"), name="t")(x))
    set_random(base.weights)
    x = rows(8, 4, WIDTH)
    good = make_task(base, tmp_path / "a", lora(), x)
    bad = make_task(base, tmp_path / "b", bottleneck(targets=["inner"]), x)
    whole = make_task(base, tmp_path / "c", bottleneck(targets=["t"]), x)
    with served(base) as bank:
        bank.load("a", good.path)
        bank.load("c", whole.path)
        with pytest.raises(ValueError, match="t/inner: its output has no rows"):
            bank.load("b", bad.path)
        names = ["a", "c", None, "c"] * 2
        got = bank.predict(x, adapter=names)
        assert_rows(got, names, {"a": good, "c": whole}, call(base, x))


def folds_its_output():
    inputs = keras.Input((4, WIDTH))
    x = ops.reshape(inputs, (-1, WIDTH))
    return keras.Model(inputs, layers.Dense(3)(x))


def whole_numbers():
    inputs = keras.Input((WIDTH,))
    return keras.Model(
        inputs, [layers.Dense(3)(inputs), ops.argmax(inputs, axis=-1)]
    )


def sum_of_all():
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, ops.sum(layers.Dense(3)(inputs)))


@pytest.mark.parametrize(
    "build, words",
    [
        (folds_its_output, "shape .* for"),
        (whole_numbers, "output of int"),
        (sum_of_all, "shape .* for"),
    ],
)
def test_outputs_that_are_not_rows_are_refused(build, words):
    base = build()
    before = Facts(base)
    with pytest.raises(ValueError, match=words):
        AdapterBank(base)
    before.assert_same(Facts(base))


def test_inputs_that_are_not_rows_are_refused():
    inputs = keras.Input((WIDTH,), batch_size=4)
    base = keras.Model(inputs, layers.Dense(3)(inputs))
    with pytest.raises(ValueError, match="fixed batch size of 4"):
        AdapterBank(base)
    mine = keras.Input((WIDTH,), name="adapter_ids")
    base = keras.Model({"adapter_ids": mine}, layers.Dense(3)(mine))
    with pytest.raises(ValueError, match="'adapter_ids'"):
        AdapterBank(base)


def test_rows_alone_are_not_refused(tmp_path):
    base = with_layer(Alone)()
    set_random(base.weights)
    with served(base) as bank:
        assert bank.names == []


def test_a_row_is_the_same_whatever_its_neighbours(tmp_path):
    """To the bit of a tolerance far below any adapter's effect."""
    base, x = sequential(), rows(8)
    tasks = many_tasks(base, tmp_path, 3, x)
    with served(base) as bank:
        loaded(bank, tasks)
        alone = bank.predict(x, adapter="t0")
        assert far_apart(alone, bank.predict(x, adapter="t1"))
        others = np.concatenate([x[:1], 1e6 * rows(7, seed=5)])
        for names in (["t0"] + ["t1"] * 7, ["t0", "t2", None, "t1"] * 2):
            got = bank.predict(others, adapter=names)
            assert off(got[0], alone[0]) <= 1e-6


INVALID = [-1, 3, 99, -(2**31), 2**31 - 1]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(WIDTH,), (5, WIDTH)])
def test_ids_that_are_no_slot_give_no_finite_row(jit, shape, tmp_path):
    if TORCH and jit:
        pytest.skip("torch is run eagerly here")
    inputs = keras.Input(shape)
    x = layers.Dense(8, activation="tanh", name="first")(inputs)
    y = layers.Dense(3, name="last")(x)
    base = keras.Model(inputs, {"x": x, "y": y})
    set_random(base.weights)
    x = rows(8, *shape)
    task = make_task(base, tmp_path / "a", lora(), x)
    more = make_task(base, tmp_path / "b", bottleneck(targets=["first"]), x)
    with served(base, capacity=2) as bank:
        bank.load("a", task.path)
        bank.load("b", more.path)
        [one, two] = bank.adapter_ids(["a", "b"])
        bank.model.compile(jit_compile=jit)
        ids = np.array([one, -1, 3, two, 99, 0, *INVALID[3:]], "int32")
        got = bank.model.predict(feeds_of(bank, x, ids), verbose=0)
        assert bank.model.jit_compile == jit
        plain = call(base, x)
        for row, number in enumerate(ids):
            if number in INVALID:
                for value in got.values():
                    assert np.isnan(value[row]).all()
                continue
            want = {one: task, two: more}.get(number)
            want = (
                want.row(row)
                if want
                else {key: value[row] for key, value in plain.items()}
            )
            assert off({key: v[row] for key, v in got.items()}, want) <= 1e-5


def test_ids_that_are_no_slot_of_a_base_of_16_bits(tmp_path):
    inputs = keras.Input((WIDTH,))
    base = keras.Model(inputs, layers.Dense(3, dtype="bfloat16")(inputs))
    x = rows(4)
    with served(base, rank=2, capacity=2) as bank:
        ids = np.array([0, -1, 3, 1], "int32")
        got = np.asarray(
            bank.model.predict(feeds_of(bank, x, ids), verbose=0), "float32"
        )
        nothing = np.isnan(got).all(axis=1)
        assert nothing.tolist() == [False, True, True, False]
        assert np.isfinite(got[[0, 3]]).all()


def test_a_slot_that_was_left_adds_nothing_of_its_former_adapter(tmp_path):
    """A smaller adapter in the slot of a larger one."""
    base, x = sequential(), rows(8)
    large = make_task(base, tmp_path / "large", lora(5), x)
    small = make_task(base, tmp_path / "s", lora(1, targets=["dense_1"]), x)
    wide = make_task(base, tmp_path / "w", bottleneck(targets=["dense"]), x)
    tasks = {"large": large, "small": small, "wide": wide}
    with served(base, capacity=1) as bank:
        loaded(bank, tasks)
        for name in ("large", "small", "wide", "small", "large", "wide"):
            got = bank.predict(x, adapter=name)
            assert off(got, tasks[name].outputs) <= 1e-5
