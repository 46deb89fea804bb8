"""Many callers at once, while adapters come, go and change their contents."""

import gc
import sys
import threading

import keras
import numpy as np
import pytest

import keras_lora
from benchmarks.soak import Soak
from keras_lora.bank.adapter import BankAdapter
from tests.banks import (
    assert_rows,
    call,
    dense_head,
    loaded,
    lora,
    make_task,
    many_tasks,
    off,
    rows,
    sequential,
    served,
)


@pytest.fixture
def often():
    """Threads take turns far more often than Python has them do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*acts):
    """Runs functions in a thread each; the first error of any is raised."""
    errors = []

    def safely(act):
        try:
            act()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=safely, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_each_answer_is_the_lone_callers(often, tmp_path):
    soak = Soak(tmp_path)
    counts = soak.run(1, callers=8)
    for _ in range(20):
        if counts.calls > 100 and counts.loads and counts.replacements:
            break
        counts += soak.run(1, callers=8)
    assert counts.calls > 100 and counts.mismatches == 0
    assert counts.loads and counts.unloads and counts.replacements
    known = {"a name is gone", "change: is active", "change: no adapter"}
    assert set(soak.errors) <= known, soak.errors
    soak.bank.detach()
    np.testing.assert_array_equal(
        soak.base.predict(soak.x, verbose=0), soak.answers[0]
    )


def test_a_slot_less_than_all_adapters_and_no_change(often, tmp_path):
    """Nothing is ever gone, so that every call has to be answered."""
    soak = Soak(tmp_path, capacity=1)
    counts = soak.run(2, callers=8, changers=0)
    assert counts.calls > 8 and counts.mismatches == 0
    assert not soak.errors
    soak.bank.detach()


def test_plain_calls_and_calls_by_name_at_once(tmp_path):
    """On JAX a plain call of a model is not safe beside any other."""
    if keras.backend.backend() == "jax":
        pytest.skip("Keras hands a model's state over while it runs")
    base, x = sequential(), rows(8)
    tasks = many_tasks(base, tmp_path, 3, x)
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)
        bank.active = "t0"
        base.predict_on_batch(x)

        def plainly():
            for _ in range(30):
                got = base.predict_on_batch(x)
                assert off(got, tasks["t0"].outputs) <= 1e-5

        def by_name(names):
            for number in range(30):
                name = names[number % len(names)]
                got = bank.predict(x, adapter=name)
                assert off(got, tasks[name].outputs) <= 1e-5

        together(
            plainly,
            lambda: by_name(["t1", "t2"]),
            lambda: by_name(["t2", "t0", "t1"]),
        )


def test_growing_while_others_call(often, tmp_path):
    base, x = sequential(), rows(8)
    small = many_tasks(base, tmp_path, 2, x, rank=1)
    larger = {
        f"r{rank}": make_task(
            base, tmp_path / f"r{rank}", lora(rank), x, head=dense_head(rank)
        )
        for rank in (2, 4, 6)
    }
    plain = call(base, x)
    with served(base) as bank:
        loaded(bank, small)
        done = threading.Event()

        def calling():
            names = ["t0", None, "t1", "t1"] * 2
            while not done.is_set():
                got = bank.predict(x, adapter=names)
                assert_rows(got, names, small, plain)

        def growing():
            try:
                for name, task in larger.items():
                    bank.load(name, task.path)
                    got = bank.predict(x, adapter=name)
                    assert off(got, task.outputs) <= 1e-5
            finally:
                done.set()

        together(growing, calling, calling)


def test_saving_while_others_save_and_load(often, tmp_path):
    base, x = sequential(), rows(4)
    tasks = many_tasks(base, tmp_path, 3, x)
    folder = tmp_path / "bank"
    with served(base) as bank:
        loaded(bank, tasks)

        def saving():
            for _ in range(8):
                bank.save(folder)

        def replacing():
            for number in range(20):
                bank.load("t0", tasks[f"t{number % 3}"].path)

        together(saving, saving, replacing)
        bank.save(folder)
        want = bank.predict(x, adapter="t0")
    again = keras_lora.AdapterBank.restore(base, folder)
    assert off(again.predict(x, adapter="t0"), want) <= 1e-6
    again.detach()
    assert len(list(folder.iterdir())) == 4


def test_a_bank_detached_under_callers_says_so(often, tmp_path):
    base, x = sequential(), rows(4)
    tasks = many_tasks(base, tmp_path, 2, x)
    bank = loaded(keras_lora.AdapterBank(base), tasks)
    bank.predict(x, adapter="t0")
    started = threading.Barrier(3)

    def calling():
        started.wait()
        with pytest.raises(ValueError, match="detached"):
            while True:
                got = bank.predict(x, adapter="t0")
                assert off(got, tasks["t0"].outputs) <= 1e-5

    def detaching():
        started.wait()
        bank.detach()

    together(calling, calling, detaching)


def test_what_is_unloaded_is_freed(tmp_path):
    base, x = sequential(), rows(4)
    tasks = many_tasks(base, tmp_path, 2, x)
    tasks["head"] = make_task(
        base, tmp_path / "head", lora(), x, head=dense_head(3)
    )

    def alive():
        gc.collect()
        things = gc.get_objects()
        return (
            sum(isinstance(thing, BankAdapter) for thing in things),
            sum(type(thing) is keras.Variable for thing in things),
            sum(type(thing) is keras.layers.Dense for thing in things),
        )

    unserved = alive()
    with served(base, capacity=2) as bank:

        def rounds(count):
            for _ in range(count):
                for name, task in tasks.items():
                    bank.load(name, task.path)
                bank.predict(x, adapter=[*tasks, None])
                bank.load("t0", tasks["t1"].path)
                bank.unload("t1")
                bank.unload("head")

        rounds(2)
        before = alive()
        rounds(20)
        assert alive() == before
        assert before[0] == unserved[0] + 1
