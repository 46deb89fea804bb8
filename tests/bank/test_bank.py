"""AdapterBank: slots, names, errors, switching and giving the base back."""

import contextlib
import gc
import logging
import re
import threading

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from keras_lora import AdapterBank
from keras_lora.files.format import write_adapter
from keras_lora.model import surgery
from tests.banks import (
    WIDTH,
    assert_rows,
    bottleneck,
    call,
    dense_head,
    far_apart,
    few_tasks,
    loaded,
    lora,
    make_task,
    off,
    rows,
    sequential,
    served,
)
from tests.methods.contract import Facts
from tests.models import (
    KINDS,
    Outer,
    count_calls,
    gpt2,
    same_bits,
    set_random,
    tokens,
    values_of,
)

JAX = keras.backend.backend() == "jax"
TORCH = keras.backend.backend() == "torch"


@pytest.fixture
def base():
    return sequential()


@pytest.fixture
def x():
    return rows(8)


@pytest.fixture
def tasks():
    return {name: few_tasks()[name] for name in ("t0", "t1", "t2", "t3")}


def feeds_of(bank, x, ids):
    """What the model of a bank over a base with one input takes."""
    names = [t.name for t in bank.model.inputs if t.name != "adapter_ids"]
    return {names[0]: x, "adapter_ids": ids}


def resident(bank):
    """Names in slots, the least recently used first."""
    return [adapter.name for adapter in bank._slots.resident]


# Rows and their order.


def test_one_name_serves_all_rows(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        got = bank.predict(x, adapter="t2")
        assert isinstance(got, np.ndarray) and got.dtype == "float32"
        assert off(got, tasks["t2"].outputs) <= 1e-5
        plain = bank.predict(x)
        assert off(plain, call(base, x)) <= 1e-5
        assert far_apart(got, plain)


def test_names_may_come_as_any_sequence(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        names = ["t0", None] * 4
        for given in (names, tuple(names), np.array(names, dtype=object)):
            got = bank.predict(x, adapter=given)
            assert_rows(got, names, tasks, call(base, x))


def test_any_number_of_rows(base, x, tasks):
    every = ["t3", "t0", None, "t1", "t1", "t2", None]
    with served(base) as bank:
        loaded(bank, tasks)
        for count in range(1, 8):
            names = every[:count]
            got = bank.predict(x[:count], adapter=names, batch_size=4)
            assert_rows(got, names, tasks, call(base, x))


@pytest.mark.parametrize("adapter", [None, "task", []])
def test_no_rows(adapter, tmp_path):
    inputs = keras.Input((None, WIDTH))
    base = keras.Model(inputs, layers.Dense(4, dtype="mixed_bfloat16")(inputs))
    x = rows(3, 5, WIDTH)
    task = make_task(
        base, tmp_path / "task", lora(), x, head=dense_head(2), size=1
    )
    with served(base) as bank:
        bank.load("task", task.path)
        some = bank.predict(x, adapter=adapter or None)
        none = bank.predict(x[:0], adapter=adapter)
    if adapter == []:
        assert none == []
    else:
        assert none.shape == (0, *some.shape[1:])
        assert none.dtype == some.dtype


def test_ids_of_the_model_are_those_of_the_names(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        names = ["t0", None, "t3", "t3", "t1", None, "t2", "t0"]
        ids = bank.adapter_ids(names)
        assert ids.dtype == "int32" and ids[1] == 0
        feeds = feeds_of(bank, x, ids)
        got = bank.model.predict(feeds, verbose=0)
        assert_rows(got, names, tasks, call(base, x))


# Capacity.


def test_more_adapters_than_slots_in_one_call(base, x, tasks):
    for capacity in (1, 2, 3):
        with served(base, capacity=capacity) as bank:
            loaded(bank, tasks)
            names = ["t0", "t1", None, "t3", "t2", "t1", "t0", "t3"]
            got = bank.predict(x, adapter=names)
            assert_rows(got, names, tasks, call(base, x))
            assert len(resident(bank)) == capacity
            assert bank.brought_in == 4


def test_load_brings_nothing_in(base, tasks):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        assert resident(bank) == [] and bank.brought_in == 0
        assert bank.names == ["t0", "t1", "t2", "t3"]


def test_least_recently_used_makes_room(base, x, tasks):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        bank.predict(x, adapter="t0")
        bank.predict(x, adapter="t1")
        bank.predict(x, adapter="t0")
        bank.predict(x, adapter="t2")
        assert resident(bank) == ["t0", "t2"]
        assert bank.brought_in == 3
        bank.predict(x[:2], adapter=["t2", "t3"])
        assert sorted(resident(bank)) == ["t2", "t3"]
        assert off(bank.predict(x, adapter="t0"), tasks["t0"].outputs) <= 1e-5
        # Of two used at once, the one that was there before stays longer.
        assert resident(bank) == ["t2", "t0"]


def test_resident_adapters_are_served_before_others_take_their_slots(
    base, x, tasks
):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        plain = call(base, x)
        bank.predict(x[:2], adapter=["t2", "t3"])
        before = bank.brought_in
        names = ["t0", "t1", "t2", "t3"] * 2
        got = bank.predict(x, adapter=names)
        assert_rows(got, names, tasks, plain)
        assert bank.brought_in == before + 2


def test_what_is_in_use_is_never_evicted(base, x, tasks):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        plain_base = call(base, x)
        with bank.using("t0"):
            for name in ("t1", "t2", "t3", "t1"):
                got = bank.predict(x, adapter=name)
                assert off(got, tasks[name].outputs) <= 1e-5
                assert "t0" in resident(bank)
                plain = base.predict(x, verbose=0)
                assert off(plain, tasks["t0"].outputs) <= 1e-5
            names = ["t1", "t0", "t2", None, "t3", "t0", "t1", "t2"]
            got = bank.predict(x, adapter=names)
            assert_rows(got, names, tasks, plain_base)


def test_what_is_in_use_alone_in_the_only_slot(base, x, tasks):
    with served(base, capacity=1) as bank:
        loaded(bank, tasks)
        with bank.using("t1"):
            got = bank.predict(x, adapter="t1")
            assert off(got, tasks["t1"].outputs) <= 1e-5
            with pytest.raises(ValueError, match="capacity 1 is taken by t1"):
                bank.predict(x, adapter="t0")
            with bank.using("t0"):
                got = base.predict(x, verbose=0)
                assert off(got, tasks["t0"].outputs) <= 1e-5
            got = base.predict(x, verbose=0)
            assert off(got, tasks["t1"].outputs) <= 1e-5
        got = bank.predict(x, adapter="t0")
        assert off(got, tasks["t0"].outputs) <= 1e-5


def test_using_within_a_call_does_not_fail_it(base, x, tasks, monkeypatch):
    """As a callback may, between two passes that fill all slots."""
    with served(base, capacity=2) as bank, contextlib.ExitStack() as stack:
        loaded(bank, tasks)
        plain, forward = call(base, x), bank._forward

        def entering(*args):
            got = forward(*args)
            stack.enter_context(bank.using("t3"))
            return got

        monkeypatch.setattr(bank, "_forward", entering)
        names = ["t0", "t1", "t0", "t1", "t2", "t2", None, "t1"]
        got = bank.predict(x, adapter=names, batch_size=2)
        assert_rows(got, names, tasks, plain)
        stack.close()


# Nothing is traced again.


@pytest.mark.skipif(TORCH, reason="torch traces nothing")
def test_no_new_trace_over_switches_loads_and_unloads(base, x, tasks):
    plain = call(base, x)
    with served(base, capacity=3, rank=2) as bank:
        calls = count_calls(base.layers[0])
        loaded(bank, tasks)
        names = list(tasks)
        bank.predict(x, adapter=names * 2)
        base.predict_on_batch(x)
        warm = len(calls)
        assert warm
        for number in range(100):
            name, other = names[number % 4], names[(number + 1) % 4]
            if number % 10 == 0:
                bank.unload(name)
                bank.load(name, tasks[other].path)
                bank.load(name, tasks[name].path)
            got = bank.predict(x, adapter=[name, other, None, name] * 2)
            assert off(got[1], tasks[other].row(1)) <= 1e-5
            with bank.using(name):
                got = base.predict_on_batch(x)
            assert off(got, tasks[name].outputs) <= 1e-5
            assert off(base.predict_on_batch(x), plain) <= 1e-5
        assert len(calls) == warm


@pytest.mark.skipif(TORCH, reason="torch traces nothing")
def test_ragged_batches_are_traced_a_few_times_only(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        calls = count_calls(base.layers[0])
        for count in [8, 7, 1, 5, 3, 2, 6, 4]:
            bank.predict(x[:count], adapter="t1", batch_size=8)
        assert len(calls) <= 4


@pytest.mark.skipif(TORCH, reason="torch traces nothing")
def test_smaller_ranks_and_fewer_targets_fit_declared_ones(
    base, x, tasks, tmp_path
):
    small = make_task(base, tmp_path / "s", lora(1, targets=["dense_1"]), x)
    with served(base, rank=3) as bank:
        calls = count_calls(base.layers[0])
        bank.load("t0", tasks["t0"].path)
        bank.predict(x, adapter="t0")
        bank.predict(x)
        warm = len(calls)
        bank.load("small", small.path)
        names = ["small", "t0"] * 4
        got = bank.predict(x, adapter=names)
        assert_rows(got, names, {**tasks, "small": small}, None)
        assert len(calls) == warm


@pytest.fixture(params=[False, True], ids=["collected", "frozen"])
def set_aside(request):
    """Takes all objects from what is looked through, or does not."""
    yield gc.freeze if request.param else lambda: None
    if request.param:
        gc.unfreeze()


def test_growing_is_logged_and_right(
    base, x, tasks, tmp_path, caplog, set_aside
):
    def logged():
        return [r for r in caplog.records if r.name == "keras_lora"]

    large = make_task(base, tmp_path / "l", lora(5), x, seed=3)
    other = make_task(base, tmp_path / "o", bottleneck(targets=["dense"]), x)
    with served(base, rank=2) as bank, caplog.at_level("INFO", "keras_lora"):
        plain = call(base, x)
        loaded(bank, tasks)

        def in_use():
            with bank.using("t1"):
                return base.predict(x, verbose=0)

        bank.predict(x, adapter="t0")
        in_use()
        assert not logged()
        set_aside()
        bank.load("large", large.path)
        [record] = logged()
        assert record.levelno == logging.INFO
        assert "3 layers" in record.getMessage()
        assert off(in_use(), tasks["t1"].outputs) <= 1e-5
        bank.load("other", other.path)
        assert len(logged()) == 2
        names = ["t0", "large", None, "other", "t1", "t2", "large", "t3"]
        got = bank.predict(x, adapter=names)
        everything = {**tasks, "large": large, "other": other}
        assert_rows(got, names, everything, plain)
        assert off(in_use(), tasks["t1"].outputs) <= 1e-5
        bank.load("again", large.path)
        assert len(logged()) == 2


def test_declared_targets_limit_where_stacks_are(base, x, tmp_path, caplog):
    task = make_task(base, tmp_path / "t", lora(2, targets=["dense"]), x)
    with served(base, targets=["dense"], rank=2) as bank:
        assert list(bank._slots.hosts) == ["dense"]
        with caplog.at_level("INFO", "keras_lora"):
            bank.load("t", task.path)
            assert not caplog.records
        assert off(bank.predict(x, adapter="t"), task.outputs) <= 1e-5


# Names and other errors.


def refused(act, *words):
    """Runs what has to be refused; the message has all the words."""
    with pytest.raises(ValueError) as caught:
        act()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    return str(caught.value)


def enter(context):
    """Enters and leaves a `with` block."""
    with context:
        pass


def test_unknown_names_are_listed_at_once_with_those_there(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        names = ["t0", "no", None, "nor this", "t1", "no", None, "t2"]
        words = ["'no'", "'nor this'", "t0, t1, t2, t3"]
        text = refused(lambda: bank.predict(x, adapter=names), *words)
        assert text.count("'no'") == 1
        refused(lambda: bank.predict(x, adapter="no"), "'no'", "t0, t1")
        refused(lambda: bank.predict(x[:0], adapter="no"), "'no'")
        refused(lambda: bank.adapter_ids(names), *words)
        refused(lambda: bank.unload("no"), "'no'", "t0, t1")
        refused(lambda: enter(bank.using("no")), "'no'", "t0, t1")
        bank.unload("t0")
        refused(lambda: bank.predict(x, adapter="t0"), "'t0'", "t1, t2, t3")


def test_a_wrong_call_lists_all_that_is_wrong(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        refused(
            lambda: bank.predict(x, adapter=["no", "t0"], batch_size=0),
            "'no'",
            "2 adapters",
            "8 rows",
            "batch_size=0",
        )


def test_what_is_no_name_is_refused(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        for wrong in (3, 1.5, True, b"t0", ["t0"], ("t0",), {}):
            for act in (
                lambda w: enter(bank.using(w)),
                bank.unload,
                lambda w: bank.load(w, tasks["t0"].path),
                lambda w: bank.predict(x, adapter=[w] * 8),
                lambda w: bank.adapter_ids([w]),
            ):
                refused(lambda act=act, w=wrong: act(w), repr(wrong))
            if not isinstance(wrong, list | tuple):
                refused(lambda w=wrong: bank.predict(x, adapter=w))


def test_inputs_that_do_not_fit_leave_the_bank_well(base, x, tasks):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        plain = call(base, x)
        refused(lambda: bank.predict([x, x[:3]], adapter="t0"), "rows")
        refused(lambda: bank.predict(np.float32(3), adapter="t0"), "rows")
        refused(lambda: bank.predict([x, x], adapter="t0"), "1 inputs")
        with pytest.raises(Exception):  # noqa: B017 - it is the backend's own
            bank.predict(x[:, :-1], adapter="t0")
        names = ["t0", None, "t1", "t3"] * 2
        assert_rows(bank.predict(x, adapter=names), names, tasks, plain)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"capacity": 0, "rank": -1}, ["capacity=0", "rank=-1"]),
        ({"capacity": True}, ["capacity=True"]),
        ({"rank": 1.5, "targets": 3}, ["rank=1.5", "targets=3"]),
        ({"targets": ["dense_9"]}, ["dense_9", "dense_1"]),
        ({"targets": "["}, ["regular expression"]),
    ],
)
def test_wrong_settings_leave_the_base_plain(settings, words, base):
    before = Facts(base)
    refused(lambda: AdapterBank(base, **settings), *words)
    before.assert_same(Facts(base))
    base.compile("sgd", "mse")
    base.fit(rows(4), rows(4, 4), verbose=0)


def test_a_base_that_is_not_built_or_adapted_is_refused(base):
    refused(lambda: AdapterBank(keras.Sequential([layers.Dense(2)])), "built")
    keras_lora.inject(base, lora())
    refused(lambda: AdapterBank(base), "adapted already")
    keras_lora.eject(base)
    base.layers[0].enable_lora(2)
    refused(lambda: AdapterBank(base), "enable_lora")


# Files that do not fit.


@pytest.fixture
def unchanged(base, x, tasks):
    """A bank in use, and a check that it is as it was."""
    with served(base, capacity=2) as bank:
        bank.load("t0", tasks["t0"].path)
        bank.load("t1", tasks["t1"].path)
        bank.predict(x, adapter=["t0", "t1"] * 4)
        before = (
            resident(bank),
            {p: list(h.adapter_weights) for p, h in bank._slots.hosts.items()},
        )
        weights = [v.name for v in base.weights]
        functions = bank.model.predict_function

        def check():
            assert bank.names == ["t0", "t1"]
            assert before == (
                resident(bank),
                {
                    p: list(h.adapter_weights)
                    for p, h in bank._slots.hosts.items()
                },
            )
            assert weights == [v.name for v in base.weights]
            assert bank.model.predict_function is functions
            for name in ("t0", "t1"):
                got = bank.predict(x, adapter=name)
                assert off(got, tasks[name].outputs) <= 1e-5
            with bank.using("t1"):
                plain = base.predict(x, verbose=0)
            assert off(plain, tasks["t1"].outputs) <= 1e-5

        yield bank, check


def other_file(tmp_path, x, **options):
    return make_task(
        sequential(seed=7), tmp_path / "other.safetensors", lora(), x, **options
    ).path


def test_a_file_of_another_base_is_refused(unchanged, tmp_path, x):
    bank, check = unchanged
    path = other_file(tmp_path, x)
    refused(
        lambda: bank.load("t0", path),
        "another base",
        "dense/kernel",
        "dense_2/bias",
    )
    check()


def test_a_file_of_a_smaller_base_is_refused(unchanged, base, tmp_path, x):
    bank, check = unchanged
    part = keras.Sequential([keras.Input((WIDTH,)), layers.Dense(8)])
    for mine, theirs in zip(part.weights, base.weights[:2], strict=True):
        mine.assign(theirs)
    path = make_task(part, tmp_path / "part", lora(), x).path
    refused(lambda: bank.load("part", path), "dense_1/kernel: not in the file")
    check()


def test_a_file_that_trained_the_base_is_refused_by_weight(tmp_path, x):
    base = KINDS["functional"].base()
    keras_lora.inject(base, lora(targets=["stem"]), train=["logits", "branch"])
    keras_lora.save_adapter(base, tmp_path / "trained")
    keras_lora.eject(base)
    with served(base) as bank:
        refused(
            lambda: bank.load("a", tmp_path / "trained"),
            "'logits/kernel'",
            "'logits/bias'",
            "'branch/kernel'",
        )
        assert bank.names == []


def test_a_head_that_cannot_be_rebuilt_is_refused(base, tmp_path, x):
    from tests.models import Head

    task = make_task(
        base,
        tmp_path / "outside",
        lora(),
        x,
        head=lambda base: keras.Sequential([base, Head(name="mine")]),
    )
    with served(base) as bank:
        refused(lambda: bank.load("a", task.path), "mine", "outer model only")
        assert bank.names == []


class Pooled(keras.Model):
    """Its head follows on something that the file does not show."""

    def __init__(self, base, **kwargs):
        super().__init__(**kwargs)
        self.base, self.top = base, layers.Dense(2, name="top")

    def call(self, x):
        return self.top(keras.ops.mean(self.base(x), axis=1))


def test_a_head_that_does_not_fit_the_output_is_refused(tmp_path):
    base = keras.Sequential([keras.Input((5, 6)), layers.Dense(8)])
    set_random(base.weights)
    x = rows(4, 5, 6)
    keras_lora.inject(base, lora())
    model = Pooled(base)
    call(model, x)
    keras_lora.save_adapter(model, tmp_path / "pooled", head="top")
    keras_lora.eject(base)
    with served(base) as bank:
        refused(lambda: bank.load("a", tmp_path / "pooled"), "head", "shape")
        assert bank.names == []


def test_a_head_that_reads_the_base_s_mask_is_refused(tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    y = layers.Embedding(9, 6, mask_zero=True)(inputs)
    base = keras.Model(inputs, layers.Dense(8, activation="tanh")(y))
    set_random(base.weights)
    x = np.array([[3, 4, 0, 0], [5, 6, 7, 0]])

    def pooled(base):
        mean = layers.GlobalAveragePooling1D()
        model = keras.Sequential([base, mean, layers.Dense(2)])
        model.build((None, None))
        return model

    mean = make_task(base, tmp_path / "mean", lora(), x, head=pooled)
    each = make_task(base, tmp_path / "each", lora(), x, head=dense_head(2))
    with served(base) as bank:
        words = "layer 0", "GlobalAveragePooling1D", "mask"
        refused(lambda: bank.load("mean", mean.path), *words)
        bank.load("each", each.path)
        assert off(bank.predict(x, adapter="each"), each.outputs) <= 1e-5
    inside = keras.Model(
        inputs, layers.GlobalAveragePooling1D()(base.outputs[0])
    )
    task = make_task(inside, tmp_path / "in", lora(), x, head=dense_head(2))
    with served(inside) as bank:
        bank.load("task", task.path)
        assert off(bank.predict(x, adapter="task"), task.outputs) <= 1e-5


def broken(path, change):
    """Writes an adapter file anew with changed tensors and record."""
    from keras_lora.files.format import inspect_adapter, read_tensors, record_of

    info = inspect_adapter(path)
    tensors, record = dict(read_tensors(info)), record_of(info)
    change(tensors, record)
    broken_path = f"{path}.{change.__name__}"
    write_adapter(broken_path, tensors, record)
    return broken_path


def wrong_shape(tensors, record):
    tensors["dense/lora_a"] = np.ones((3, 3), "float32")
    tensors["dense_1/lora_b"] = np.ones((2, 9), "float32")


def lost(tensors, record):
    del tensors["dense_1/lora_a"]


def too_many(tensors, record):
    tensors["dense_1/lora_c"] = np.ones((2, 9), "float32")


def not_finite(tensors, record):
    tensors["dense_2/lora_a"][0, 0] = np.nan


def no_such_layer(tensors, record):
    record["layers"]["dense_9"] = record["layers"].pop("dense_2")
    for name in ("lora_a", "lora_b"):
        tensors[f"dense_9/{name}"] = tensors.pop(f"dense_2/{name}")


def wide(tensors, record):
    record["layers"]["dense_2"]["rank"] = 10**9


def head_of_nothing(tensors, record):
    record["head"] = {
        "input": 5,
        "layers": [
            {"class": "Flatten", "config": {}, "input_shape": [None, 4]}
        ],
    }


def test_a_broken_file_is_refused(unchanged, tasks):
    bank, check = unchanged
    for change, *words in (
        (wrong_shape, "dense/lora_a", "(3, 3)", "dense_1/lora_b"),
        (lost, "no tensor 'dense_1/lora_a'"),
        (too_many, "dense_1/lora_c"),
        (not_finite, "dense_2/lora_a", "finite"),
        (no_such_layer, "dense_9"),
        (wide, "dense_2/lora_a"),
        (head_of_nothing, "head"),
    ):
        path = broken(tasks["t2"].path, change)
        refused(lambda p=path: bank.load("t2", p), *words)
        refused(lambda p=path: bank.load("t1", p), *words)
    check()


def test_a_bad_name_is_refused(unchanged, tasks):
    bank, check = unchanged
    path = tasks["t2"].path
    for name in (
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "-a",
        "é",
        "a" * 101,
        "a\n",
        None,
    ):
        refused(lambda n=name: bank.load(n, path), repr(name))
    check()


def test_a_missing_file_is_refused(unchanged, tmp_path):
    bank, check = unchanged
    refused(lambda: bank.load("a", tmp_path / "none"), "none")
    (tmp_path / "text").write_text("no adapter")
    refused(lambda: bank.load("a", tmp_path / "text"), "safetensors")
    refused(lambda: bank.load("a", tmp_path), "no file")
    check()


# An exception in the middle.


class Failing(RuntimeError):
    """What a test throws."""


def failing_write(monkeypatch, at):
    """Makes the next write to a slot end in the middle.

    It leaves `at` values as they should be, and others as nobody wants them.
    """
    from keras_lora.model.stacked import Stacked

    write = Stacked.write

    def failing(self, slot, values):
        monkeypatch.setattr(Stacked, "write", write)
        wrong = [v if n < at else v + 9 for n, v in enumerate(values)]
        write(self, slot, wrong)
        raise Failing

    monkeypatch.setattr(Stacked, "write", failing)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_after_a_write_that_failed_the_next_call_is_right(
    at, base, x, tasks, monkeypatch
):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        plain = call(base, x)
        bank.predict(x[:2], adapter=["t0", "t1"])
        with monkeypatch.context() as patch:
            failing_write(patch, at)
            with pytest.raises(Failing):
                bank.predict(x[:2], adapter=["t2", "t3"])
        for names in (["t0", "t3", None, "t2"], ["t1", "t2", "t3", "t0"]):
            got = bank.predict(x, adapter=names * 2)
            assert_rows(got, names * 2, tasks, plain)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_failed_replacement_of_what_is_in_use_leaves_the_old(
    at, base, x, tasks, monkeypatch
):
    with served(base, capacity=2) as bank:
        bank.load("name", tasks["t0"].path)
        with bank.using("name"):
            with monkeypatch.context() as patch:
                failing_write(patch, at)
                with pytest.raises(Failing):
                    bank.load("name", tasks["t1"].path)
            want = tasks["t0"].outputs
            assert off(base.predict(x, verbose=0), want) <= 1e-5
            assert off(bank.predict(x, adapter="name"), want) <= 1e-5
            bank.load("name", tasks["t1"].path)
            want = tasks["t1"].outputs
            assert off(base.predict(x, verbose=0), want) <= 1e-5


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_failed_switch_leaves_what_was_in_use(
    at, base, x, tasks, monkeypatch
):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        plain = call(base, x)
        with bank.using("t0"):
            with monkeypatch.context() as patch:
                failing_write(patch, at)
                with pytest.raises(Failing):
                    enter(bank.using("t1"))
            got = base.predict(x, verbose=0)
            assert off(got, tasks["t0"].outputs) <= 1e-5
        assert off(base.predict(x, verbose=0), plain) <= 1e-5
        bank.unload("t0")


@pytest.mark.parametrize("at", [1, 4, 5, 7])
def test_growing_that_failed_leaves_the_bank_as_it_was(
    at, base, x, tasks, tmp_path, monkeypatch
):
    """As where there is no memory for larger stacks."""
    large = make_task(base, tmp_path / "large", lora(5), x)
    with served(base, capacity=2) as bank:
        bank.load("t0", tasks["t0"].path)
        plain_predict = base.predict(x, verbose=0)
        got = bank.predict(x, adapter="t0")
        add_weight, count = surgery.add_weight, [0]

        def failing(*args, **kwargs):
            count[0] += 1
            if count[0] == at:
                raise Failing
            return add_weight(*args, **kwargs)

        weights = len(base.weights)
        with monkeypatch.context() as patch:
            patch.setattr(surgery, "add_weight", failing)
            if at <= 6:
                with pytest.raises(Failing):
                    bank.load("large", large.path)
            else:
                bank.load("large", large.path)
        assert len(base.weights) == weights
        assert off(base.predict(x, verbose=0), plain_predict) <= 1e-5
        assert off(bank.predict(x, adapter="t0"), got) <= 1e-5
        if at <= 6:
            assert bank.names == ["t0"]
        bank.load("large", large.path)
        assert off(bank.predict(x, adapter="large"), large.outputs) <= 1e-5
        with bank.using("t0"):
            plain_predict = base.predict(x, verbose=0)
        assert off(plain_predict, tasks["t0"].outputs) <= 1e-5


# What is refused while a base is served.


def test_a_served_base_does_not_train(base, x, tasks, tmp_path):
    y = rows(8, 4, seed=3)
    base.compile("sgd", "mse")
    weights = list(base.weights)
    before = values_of(weights)
    outer = keras.Sequential([base, layers.Dense(2)])
    outer.compile("sgd", "mse")
    outer.fit(x, y[:, :2], epochs=0, verbose=0)
    with served(base) as bank:
        for _ in range(2):
            base.compile("sgd", "mse")
            refused(lambda: base.fit(x, y, verbose=0), "AdapterBank")
            refused(lambda: base.train_on_batch(x, y), "AdapterBank")
            refused(lambda: bank.model.fit(x, y, verbose=0), "AdapterBank")
            bank.model.compile("sgd", "mse")
            ids = np.zeros(8, "int32")
            feeds = feeds_of(bank, x, ids)
            refused(
                lambda f=feeds: bank.model.fit(f, y, verbose=0), "AdapterBank"
            )
            refused(
                lambda f=feeds: bank.model.train_on_batch(f, y), "AdapterBank"
            )
            with pytest.raises(Exception, match="compile"):
                outer.fit(x, y[:, :2], verbose=0)
            outer.compile("sgd", "mse")
            head = values_of(outer.layers[-1].weights)
            with pytest.warns(UserWarning, match="AdapterBank"):
                outer.fit(x, y[:, :2], verbose=0)
            assert not same_bits(head, values_of(outer.layers[-1].weights))
            assert not base.trainable_variables
            assert same_bits(before, values_of(weights))
            loaded(bank, tasks)
            bank.predict(x, adapter="t0")
            # Growing asks for `compile` again.
            outer.compiled = False
        base.compile("sgd", "mse")
        base.evaluate(x, y, verbose=0)
    assert same_bits(before, values_of(base.weights))
    base.compile("sgd", "mse")
    base.fit(x, y, verbose=0)
    outer.compile("sgd", "mse")
    outer.fit(x, y[:, :2], verbose=0)
    assert not same_bits(before, values_of(base.weights))


def test_a_served_base_stays_frozen_whatever_a_model_around_it_sets(base, x):
    y = rows(8, 2, seed=3)
    before = values_of(base.weights)
    with served(base):
        outer = keras.Sequential([base, layers.Dense(2)])
        outer.trainable = False
        outer.trainable = True
        outer.compile("sgd", "mse")
        head = values_of(outer.layers[-1].weights)
        outer.fit(x, y, verbose=0)
        outer.trainable = False
        outer.trainable = True
        outer.train_on_batch(x, y)
        assert not same_bits(head, values_of(outer.layers[-1].weights))
        assert same_bits(before, values_of(base.weights))
    assert same_bits(before, values_of(base.weights))
    assert len(base.trainable_variables) == len(before)


def test_batch_statistics_of_a_served_base_do_not_move(tmp_path):
    base = KINDS["functional"].base()
    x = KINDS["functional"].inputs()
    before = values_of(base.weights)
    with served(base):
        flattened = keras.Model(base.input, layers.Dense(2)(base.output))
        flattened.compile("sgd", "mse")
        with pytest.warns(UserWarning, match="AdapterBank"):
            flattened.fit(x, rows(len(x), 2), verbose=0)
        assert off(base(x, training=True), call(base, x)) <= 1e-6
    assert same_bits(before, values_of(base.weights))


def test_a_served_base_gets_no_adapter_and_no_second_bank(
    base, x, tasks, tmp_path
):
    outer = keras.Sequential([base, layers.Dense(2)])
    outer.build((None, WIDTH))
    part = keras.Sequential([keras.Input((WIDTH,)), base.layers[0]])
    with served(base) as bank:
        for _ in range(2):
            for model in (base, outer, part):
                refused(lambda m=model: keras_lora.inject(m, lora()), "detach")
                refused(lambda m=model: AdapterBank(m), "detach")
            for model in (base, outer):
                refused(
                    lambda m=model: keras_lora.load_adapter(
                        m, tasks["t0"].path, head=False
                    ),
                    "detach",
                )
                for act in (keras_lora.eject, keras_lora.merge):
                    refused(lambda m=model, a=act: a(m), "adapter")
                refused(
                    lambda m=model: keras_lora.save_adapter(m, tmp_path / "s"),
                    "adapter",
                )
            loaded(bank, tasks)
            got = bank.predict(x, adapter="t0")
            assert off(got, tasks["t0"].outputs) <= 1e-5
    assert not (tmp_path / "s").exists()
    keras_lora.inject(base, lora())


def test_the_model_of_a_bank_is_no_base(base):
    with served(base) as bank:
        refused(lambda: AdapterBank(bank.model), "AdapterBank")


# The adapter of plain calls.


def test_using_serves_plain_calls(base, x, tasks):
    plain = call(base, x)
    nested = keras.Sequential([base, layers.Rescaling(2.0)])
    nested.build((None, WIDTH))
    with served(base) as bank:
        loaded(bank, tasks)

        def gives(want):
            assert off(base.predict(x, verbose=0), want) <= 1e-5
            assert off(base.predict_on_batch(x), want) <= 1e-5
            assert off(call(base, x), want) <= 1e-5
            assert off(nested.predict(x, verbose=0), 2 * want) <= 1e-5
            # A row that names None gets the base, whatever is in use.
            assert off(bank.predict(x), plain) <= 1e-5

        gives(plain)
        for name in ("t0", "t2", None, "t1"):
            with bank.using(name) as used:
                assert used is base
                gives(plain if name is None else tasks[name].outputs)
            gives(plain)
        with pytest.raises(Failing), bank.using("t1"):
            raise Failing
        gives(plain)


@pytest.mark.skipif(
    JAX, reason="Keras takes a model's state before it runs what is compiled"
)
def test_using_keeps_other_threads_from_a_model_made_later(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        outer = keras.Sequential([base, layers.Dense(2)])
        plain, found = outer.predict(x, verbose=0), []
        other = threading.Thread(
            target=lambda: found.append(outer.predict(x, verbose=0))
        )
        with bank.using("t0"):
            assert far_apart(outer.predict(x, verbose=0), plain)
            other.start()
            other.join(1)
            assert not found
        other.join()
        assert off(found[0], plain) <= 1e-5


def test_the_innermost_block_counts(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        with bank.using("t0"):
            with bank.using("t1"):
                got = base.predict(x, verbose=0)
                assert off(got, tasks["t1"].outputs) <= 1e-5
                refused(lambda: bank.unload("t0"), "'t0'", "using")
                bank.load("t0", tasks["t3"].path)
                with bank.using(None):
                    assert off(call(base, x), tasks["t1"].outputs) > 1e-3
            got = base.predict(x, verbose=0)
            assert off(got, tasks["t3"].outputs) <= 1e-5


def test_a_base_that_is_not_in_use_is_bare(base, x, tasks):
    """To the bit: nothing of the slots is read."""
    plain = call(base, x)
    with served(base) as bank:
        loaded(bank, tasks)
        np.testing.assert_array_equal(call(base, x), plain)


def test_active_says_what_took_its_place(base, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        for act in (lambda: bank.active, lambda: setattr(bank, "active", "t0")):
            with pytest.raises(AttributeError, match="using"):
                act()


def test_a_bank_is_not_detached_while_in_use(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        with bank.using("t0"):
            refused(bank.detach, "using")
            got = base.predict(x, verbose=0)
            assert off(got, tasks["t0"].outputs) <= 1e-5


def test_what_is_in_use_is_not_unloaded_and_may_be_replaced(base, x, tasks):
    with served(base) as bank:
        loaded(bank, tasks)
        with bank.using("t0"):
            refused(lambda: bank.unload("t0"), "'t0'", "using")
            assert "t0" in bank.names
            bank.load("t0", tasks["t3"].path)
            got = base.predict(x, verbose=0)
            assert off(got, tasks["t3"].outputs) <= 1e-5
        bank.unload("t0")
        assert bank.names == ["t1", "t2", "t3"]


def test_a_replaced_name_keeps_its_place_and_serves_the_new(base, x, tasks):
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        bank.predict(x[:2], adapter=["t0", "t1"])
        bank.load("t0", tasks["t3"].path)
        assert bank.names == ["t0", "t1", "t2", "t3"]
        assert off(bank.predict(x, adapter="t0"), tasks["t3"].outputs) <= 1e-5


def test_a_call_keeps_the_contents_it_began_with(base, x, tasks, monkeypatch):
    """A name replaced or unloaded between two passes of one call."""
    with served(base) as bank:
        loaded(bank, tasks)
        forward = bank._forward

        def changing(*args):
            got = forward(*args)
            bank.load("t0", tasks["t3"].path)
            if "t1" in bank.names:
                bank.unload("t1")
            return got

        with monkeypatch.context() as patch:
            patch.setattr(bank, "_forward", changing)
            names = ["t0", "t1"] * 4
            got = bank.predict(x, adapter=names, batch_size=2)
        assert_rows(got, names, tasks, None)
        assert off(bank.predict(x, adapter="t0"), tasks["t3"].outputs) <= 1e-5
        refused(lambda: bank.predict(x, adapter="t1"), "'t1'")
        bank.predict(x, adapter="t0")
        assert len(bank._slots.resident) == 1


@pytest.mark.extra
def test_using_serves_generate_without_a_trace(tmp_path):
    base = gpt2()
    set_random(base.weights)
    base.compile(sampler="greedy")
    prompt = {
        "token_ids": np.ones((2, 8), "int32"),
        "padding_mask": np.array([[1] * 3 + [0] * 5] * 2, "int32"),
    }

    def generate():
        got = base.generate(prompt, stop_token_ids=None)
        return np.array(got["token_ids"])

    plain = generate()
    want, paths = {}, {}
    for name in ("a", "b"):
        keras_lora.inject(base, lora(targets="all-linear"))
        set_random(base.trainable_variables, seed=ord(name), size=1.0)
        base.compile(sampler="greedy")
        want[name] = generate()
        paths[name] = tmp_path / name
        keras_lora.save_adapter(base, paths[name])
        keras_lora.eject(base)
    assert not np.array_equal(want["a"], want["b"])
    assert not np.array_equal(want["a"], plain)
    with served(base, rank=2) as bank:
        base.compile(sampler="greedy")
        calls = count_calls(base.backbone.transformer_layers[0])
        for name in paths:
            bank.load(name, paths[name])
        np.testing.assert_array_equal(generate(), plain)
        warm = len(calls)
        for name in ("a", "b", None, "b", "a"):
            with bank.using(name):
                got = generate()
            np.testing.assert_array_equal(got, want.get(name, plain))
        if not TORCH:
            assert len(calls) == warm
        x = {k: np.concatenate([v, v]) for k, v in tokens().items()}
        bank.predict(x, adapter=["a", "b", None, "a"] * 2)
        refused(lambda: enter(bank.using("c")), "a, b")


# The base is given back.


@pytest.mark.parametrize("name", ["functional", "subclassed"])
def test_detach_gives_the_base_back(name, tmp_path):
    kind = KINDS[name]
    base, x = kind.base(), kind.inputs()
    tasks = [
        make_task(base, tmp_path / "a", lora(targets=kind.lora), x),
        make_task(base, tmp_path / "b", bottleneck(targets=kind.outputs), x),
    ]
    before, outputs = Facts(base), call(base, x)
    attributes = [sorted(vars(la)) for la in surgery.every_layer(base)]
    bank = AdapterBank(base, capacity=1)
    for number, task in enumerate(tasks):
        bank.load(f"t{number}", task.path)
    bank.predict(x, adapter=["t0", "t1", None, "t0"])
    with bank.using("t1"):
        call(base, x)
    assert bank.detach() is base
    before.assert_same(Facts(base))
    assert attributes == [sorted(vars(la)) for la in surgery.every_layer(base)]
    for mine, theirs in zip(
        keras.tree.flatten(outputs),
        keras.tree.flatten(call(base, x)),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, theirs)
    base.compile("sgd", loss=keras.tree.map_structure(lambda _: "mse", outputs))
    base.fit(x, outputs, verbose=0)
    with served(base) as bank:
        assert bank.names == []


def test_a_bank_that_fails_to_start_leaves_the_base_plain(base, monkeypatch):
    before = Facts(base)
    attributes = [sorted(vars(la)) for la in surgery.every_layer(base)]

    def failing(*_):
        raise Failing

    with monkeypatch.context() as patch:
        patch.setattr("keras_lora.bank.core.Models", failing)
        with pytest.raises(Failing):
            AdapterBank(base, rank=2)
    before.assert_same(Facts(base))
    assert attributes == [sorted(vars(la)) for la in surgery.every_layer(base)]
    with served(base):
        pass


def test_a_detached_bank_says_so_and_does_nothing(base, x, tasks, tmp_path):
    bank = loaded(AdapterBank(base), tasks)
    folder = tmp_path / "bank"
    bank.save(folder)
    kept = sorted(p.name for p in folder.iterdir())
    bank.detach()
    for act in (
        lambda: bank.predict(x, adapter="t0"),
        lambda: bank.predict(x),
        lambda: bank.load("t0", tasks["t0"].path),
        lambda: bank.unload("t0"),
        lambda: bank.adapter_ids(["t0"]),
        lambda: enter(bank.using("t0")),
        lambda: enter(bank.using(None)),
        lambda: bank.model,
        lambda: bank.summary(),
        lambda: bank.save(folder),
        lambda: bank.export(tmp_path / "saved"),
        lambda: bank.detach(),
    ):
        refused(act, "detached")
    assert bank.names == []
    assert kept == sorted(p.name for p in folder.iterdir())
    assert not (tmp_path / "saved").exists()


# The table.


def test_summary_counts_real_sizes(base, x, tasks, tmp_path):
    small = make_task(
        base,
        tmp_path / "small",
        lora(1, targets=["dense"]),
        x,
        head=dense_head(3),
    )
    wide = make_task(base, tmp_path / "wide", bottleneck(targets=["dense"]), x)
    with served(base, capacity=2) as bank:
        bank.load("t0", tasks["t0"].path)
        bank.load("small", small.path)
        bank.load("wide", wide.path)
        bank.predict(x[:2], adapter=["t0", "small"])
        got = bank.summary()
        shapes = [
            v.shape
            for h in bank._slots.hosts.values()
            for v in h.adapter_weights.values()
        ]
    rows_ = {row.name: row for row in got.rows}
    layers_ = [(WIDTH, 8), (8, 8), (8, 4)]
    full = sum(2 * (a + b) for a, b in layers_)
    assert rows_["t0"].parameters == full
    assert rows_["t0"].host_bytes == 4 * full
    assert rows_["small"].parameters == (WIDTH + 8) + (4 * 3 + 3)
    assert rows_["wide"].parameters == 2 * 3 * 8 + 3 + 8
    assert [rows_[n].method for n in ("t0", "wide")] == ["lora", "bottleneck"]
    assert [rows_[n].size for n in ("t0", "small", "wide")] == [
        "rank 2",
        "rank 1",
        "width 3",
    ]
    slot = 4 * sum(int(np.prod(s[1:])) for s in shapes)
    assert got.slot_bytes == 3 * slot
    assert rows_["t0"].resident_bytes == slot
    assert rows_["t0"].padding_bytes == slot - 4 * full
    assert rows_["wide"].resident_bytes == 0
    plain = 4 * sum(a * b + b for a, b in layers_)
    assert got.base_bytes == plain
    host = sum(row.host_bytes for row in got.rows)
    assert got.bank_bytes == plain + got.slot_bytes + host
    assert got.copies_bytes == 3 * plain + 4 * (4 * 3 + 3)
    text = str(got)
    for name in ("t0", "small", "wide", "3 merged copies"):
        assert re.search(rf"\b{name}\b", text)


def test_a_subclassed_outer_model_with_a_named_head(base, x, tmp_path):
    keras_lora.inject(base, lora())
    model = Outer(base, layers.Dense(2, name="top"))
    call(model, x)
    set_random(model.trainable_variables, seed=2)
    keras_lora.save_adapter(model, tmp_path / "a", head="top")
    want = call(model, x)
    keras_lora.eject(base)
    with served(base) as bank:
        bank.load("a", tmp_path / "a")
        assert off(bank.predict(x, adapter="a"), want) <= 1e-5
