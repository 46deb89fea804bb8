"""The slots: written one at a time, read by the rows that need them."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from tests.banks import (
    assert_rows,
    bottleneck,
    call,
    far_apart,
    few_tasks,
    loaded,
    lora,
    make_task,
    many_tasks,
    off,
    rows,
    sequential,
    served,
    together,
)
from tests.models import count_calls, same_bits, set_random, to_numpy

BACKEND = keras.backend.backend()
METHODS = {
    "lora": lora(2),
    "dora": keras_lora.DoRAConfig(rank=2),
    "ia3": keras_lora.IA3Config(targets="all-linear"),
    "bottleneck": bottleneck(3, targets=["dense", "dense_1"]),
}


def contents(bank):
    """All slots of every stack, by host and name."""
    return {
        (path, name): to_numpy(variable)
        for path, host in bank._slots.hosts.items()
        for name, variable in host.adapter_weights.items()
    }


def tasks_of(base, folder, configs, x):
    return {
        name: make_task(base, folder / name, config, x, seed=seed)
        for seed, (name, config) in enumerate(configs.items(), 1)
    }


def of_bank_model(bank, x, ids):
    """What the bank's model gives for slots, run eagerly."""
    [name] = [t.name for t in bank.model.inputs if t.name != "adapter_ids"]
    feeds = {name: x, "adapter_ids": np.array(ids, "int32")}
    feeds = {k: keras.ops.convert_to_tensor(v) for k, v in feeds.items()}
    return keras.ops.convert_to_numpy(bank.model(feeds))


# Written alone.


@pytest.mark.parametrize("method", METHODS)
def test_a_slot_is_written_and_no_other(method, tmp_path):
    base, x = sequential(), rows(8)
    configs = {name: METHODS[method] for name in "abc"}
    tasks = tasks_of(base, tmp_path, configs, x)
    with served(base, capacity=3) as bank:
        loaded(bank, tasks)
        first, second = bank.adapter_ids(["a", "b"])
        before = contents(bank)
        [third] = bank.adapter_ids(["c"])
        after = contents(bank)
        assert sorted([first, second, third]) == [1, 2, 3]
        for key, stack in after.items():
            others = [0, first, second]
            np.testing.assert_array_equal(stack[others], before[key][others])
            assert stack[first].any() and stack[third].any()
            assert not stack[0].any() and not before[key][third].any()
            assert far_apart(stack[third], stack[first])
        names = ["c", "a", None, "b"] * 2
        assert_rows(bank.predict(x, adapter=names), names, tasks, call(base, x))


def test_an_adapter_leaves_nothing_to_the_next_one_in_its_slot(tmp_path):
    """Each has weights where others have none."""
    base, x = sequential(), rows(8)
    configs = {
        "all": lora(2),
        "some": lora(1, targets=["dense_1"]),
        "other": bottleneck(3, targets=["dense"]),
        "wide": lora(20, targets=["dense_2"]),
        "dora": keras_lora.DoRAConfig(rank=2, targets=["dense"]),
        "factors": keras_lora.IA3Config(targets=["dense_1"]),
    }
    tasks = tasks_of(base, tmp_path, configs, x)
    rng = np.random.default_rng(0)
    with served(base, capacity=1) as bank:
        loaded(bank, tasks)
        for name in rng.choice(list(tasks), 24):
            got = bank.predict(x, adapter=str(name))
            assert off(got, tasks[name].outputs) <= 1e-5, name


def embedding():
    tokens = keras.Input((5,), dtype="int32")
    x = layers.Embedding(11, 6)(tokens)
    x = layers.Conv1D(4, 3, padding="same", activation="tanh")(x)
    return keras.Model(tokens, layers.Dense(3)(layers.Flatten()(x)))


def test_tables_and_convolutions_after_many_evictions(tmp_path):
    base = embedding()
    set_random(base.weights, 0)
    x = np.random.default_rng(0).integers(0, 11, (6, 5)).astype("int32")
    configs = {
        "table": lora(2, targets=["embedding"]),
        "conv": lora(3, targets=["conv1d"]),
        "dense": lora(2, targets=["dense"]),
        "all": lora(2, targets=["embedding", "conv1d", "dense"]),
    }
    tasks = tasks_of(base, tmp_path, configs, x)
    plain = call(base, x)
    rng = np.random.default_rng(1)
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        for _ in range(12):
            names = [*rng.choice([*tasks, ""], 6)]
            names = [str(name) or None for name in names]
            got = bank.predict(x, adapter=names)
            assert_rows(got, names, tasks, plain)


@pytest.mark.parametrize("kind", ["mixed_float16", "mixed_bfloat16", "int8"])
def test_slots_of_bases_of_other_dtypes(kind, tmp_path):
    policy = "float32" if kind == "int8" else kind
    base = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="tanh", dtype=policy),
            layers.Dense(4, dtype=policy),
        ]
    )
    set_random(base.weights, 0)
    if kind == "int8":
        base.quantize("int8")
    x = rows(8)
    tasks = many_tasks(base, tmp_path, 4, x)
    rng = np.random.default_rng(0)
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        for _ in range(6):
            names = [str(name) for name in rng.choice(list(tasks), 8)]
            got = bank.predict(x, adapter=names)
            for row, name in enumerate(names):
                assert off(got[row], tasks[name].row(row)) <= 0.02
        for stack in contents(bank).values():
            assert stack.dtype == "float32" and not stack[0].any()


def test_who_reads_the_model_eagerly_sees_no_slot_half_written():
    base, x = sequential(), rows(8)
    tasks = {name: few_tasks()[name] for name in ("t0", "t1", "t2", "t3")}
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        mine, other = bank.adapter_ids(["t0", "t1"])
        done = []

        def bringing_in():
            for number in range(60):
                bank.adapter_ids(["t0", f"t{1 + number % 3}"])
            done.append(True)

        def reading():
            while not done:
                got = of_bank_model(bank, x, [mine, other] * 4)
                assert off(got[::2], tasks["t0"].outputs[::2]) <= 1e-5
                its = [off(got[1::2], t.outputs[1::2]) for t in tasks.values()]
                assert min(its) <= 1e-5

        together(bringing_in, reading, reading)


# Rows of the base.


def poison(bank):
    """What nobody may read becomes NaN."""
    for host in bank._slots.hosts.values():
        for variable in host.adapter_weights.values():
            variable.assign(np.full(variable.shape, np.nan, "float32"))


@pytest.mark.parametrize("adapter", [None, [None] * 8])
def test_rows_of_the_base_read_no_slot(adapter):
    base, x = sequential(), rows(8)
    plain = call(base, x)
    with served(base) as bank:
        loaded(bank, {"t0": few_tasks()["t0"]})
        assert far_apart(bank.predict(x, adapter="t0"), plain)
        poison(bank)
        assert off(np.array(bank.predict(x, adapter=adapter)), plain) <= 1e-6


def test_rows_of_the_base_are_its_own_to_the_bit():
    base, x = sequential(), rows(8)
    plain = call(base, x)
    with served(base) as bank:
        loaded(bank, {"t0": few_tasks()["t0"], "wide": few_tasks()["wide"]})
        bank.model.run_eagerly = True
        assert same_bits([bank.predict(x)], [plain])
        assert far_apart(bank.predict(x, adapter="t0"), plain)
        bank.model.run_eagerly = False
        assert off(bank.predict(x), plain) <= 1e-6


def test_rows_of_the_base_after_growth_and_in_use(tmp_path):
    base, x = sequential(), rows(8)
    plain = call(base, x)
    tasks = tasks_of(base, tmp_path, {"a": lora(2), "b": lora(20)}, x)
    with served(base) as bank:
        for name, task in tasks.items():
            bank.load(name, task.path)
            assert off(bank.predict(x), plain) <= 1e-5
            with bank.using(name):
                assert off(bank.predict(x), plain) <= 1e-5
                got = base.predict(x, verbose=0)
                assert off(got, task.outputs) <= 1e-5


# Wide adapters beside narrow ones.


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Adapters of several widths on one base."""
    folder = tmp_path_factory.mktemp("mixed")
    configs = {
        "narrow": lora(2),
        "middle": lora(20),
        "wide": lora(70),
        "both": lora(2, rank_pattern={"dense_1": 24}),
        "dora": keras_lora.DoRAConfig(rank=18),
        "beside": bottleneck(40, targets=["dense"]),
    }
    return tasks_of(sequential(), folder, configs, rows(8))


def test_each_row_is_right_beside_rows_of_other_widths(mixed):
    base, x = sequential(), rows(8)
    plain = call(base, x)
    names = ["wide", "narrow", None, "both", "middle", "dora", "beside", "wide"]
    for capacity in (2, 8):
        with served(base, capacity=capacity) as bank:
            loaded(bank, mixed)
            for turn in range(3):
                its = names[turn:] + names[:turn]
                for size in (3, 32):
                    got = bank.predict(x, adapter=its, batch_size=size)
                    assert_rows(got, its, mixed, plain)


def test_the_model_and_using_take_any_width(mixed):
    base, x = sequential(), rows(8)
    names = ["wide", "narrow", None, "both", "middle", "dora", "beside", "wide"]
    with served(base) as bank:
        loaded(bank, mixed)
        got = of_bank_model(bank, x, bank.adapter_ids(names))
        assert_rows(got, names, mixed, call(base, x))
        for name, task in mixed.items():
            with bank.using(name):
                got = base.predict(x, verbose=0)
            assert off(got, task.outputs) <= 1e-5, name


def test_narrow_rows_read_nothing_of_wide_ones(mixed):
    base, x = sequential(), rows(8)
    with served(base) as bank:
        loaded(bank, {n: mixed[n] for n in ("narrow", "wide")})
        for host in bank._slots.hosts.values():
            for variable in host.adapter_weights.values():
                if 70 in variable.shape:
                    variable.assign(variable + np.nan)
        got = bank.predict(x, adapter="narrow")
        assert off(got, mixed["narrow"].outputs) <= 1e-5
        names = ["wide", "narrow"] * 4
        got = bank.predict(x, adapter=names)
        assert np.isfinite(np.array(got[1::2])).all()


def test_a_wide_adapter_does_not_widen_the_slots_of_narrow_ones(mixed):
    base = sequential()
    widths = 6 + 8 + 8 + 8 + 8 + 4
    with served(base, capacity=3) as bank:
        bank.load("narrow", mixed["narrow"].path)
        assert bank.summary().slot_bytes == 4 * 4 * 2 * widths
        bank.load("wide", mixed["wide"].path)
        assert bank.summary().slot_bytes == 4 * 4 * (2 + 70) * widths
    with served(base, capacity=3, rank=70) as bank:
        before = bank.summary().slot_bytes
        assert before == 4 * 4 * (16 + 64 + 70) * widths
        loaded(bank, {n: mixed[n] for n in ("narrow", "middle", "wide")})
        assert bank.summary().slot_bytes == before


@pytest.mark.skipif(BACKEND == "torch", reason="torch traces nothing")
def test_widths_are_traced_once_each(mixed):
    base, x = sequential(), rows(8)
    with served(base) as bank:
        loaded(bank, {n: mixed[n] for n in ("narrow", "middle")})
        names = ["narrow", "middle"] * 4
        bank.predict(x, adapter=names)
        calls = count_calls(base.layers[0])
        bank.predict(x, adapter=names[1:] + names[:1])
        bank.predict(x[:4], adapter="narrow")
        bank.predict(x[:4], adapter="middle")
        assert not calls


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a SavedModel")
@pytest.mark.parametrize("jit", [False, True])
def test_an_export_has_all_widths(jit, mixed, tmp_path):
    import tensorflow as tf

    base, x = sequential(), rows(8)
    plain = call(base, x)
    names = ["wide", "narrow", None, "both", "middle", "dora", "beside", "wide"]
    with served(base, capacity=2) as bank:
        loaded(bank, mixed)
        bank.export(tmp_path / "saved")
        order = {None: 0, **{n: i for i, n in enumerate(bank.names, 1)}}
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    signature = saved.signatures["serving_default"]
    [name] = {*signature.structured_input_signature[1]} - {"adapter_ids"}
    feeds = {
        name: tf.constant(x),
        "adapter_ids": tf.constant([order[n] for n in names]),
    }
    got = tf.function(lambda: signature(**feeds), jit_compile=jit)()
    assert_rows(got["features"].numpy(), names, mixed, plain)
