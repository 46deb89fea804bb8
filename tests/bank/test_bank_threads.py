"""Many callers at once, while adapters come, go and change their contents."""

import functools
import gc
import itertools
import sys
import threading
import time

import keras
import numpy as np
import pytest

import keras_lora
from benchmarks.soak import Soak
from keras_lora.bank.adapter import BankAdapter
from tests.banks import (
    assert_rows,
    bottleneck,
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
    together,
)

JAX = keras.backend.backend() == "jax"
"""There Keras empties a model's variables while its `predict` runs, so that
only what the bank knows of may run beside it."""


@pytest.fixture
def often():
    """Threads take turns far more often than Python has them do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_each_answer_is_the_lone_callers(often, tmp_path):
    soak = Soak(tmp_path)
    counts = soak.run(1, callers=8)
    for _ in range(20):
        if counts.calls > 100 and counts.loads and counts.replacements:
            break
        counts += soak.run(1, callers=8)
    assert counts.calls > 100 and counts.mismatches == 0
    assert counts.loads and counts.unloads and counts.replacements
    known = {"a name is gone", "change: no adapter"}
    assert set(soak.errors) <= known, soak.errors
    soak.bank.detach()
    np.testing.assert_array_equal(
        soak.base.predict(soak.x, verbose=0), soak.answers[0]
    )


@pytest.mark.slow
def test_a_slot_less_than_all_adapters_and_no_change(often, tmp_path):
    """Nothing is ever gone, so that every call has to be answered."""
    soak = Soak(tmp_path, capacity=1)
    counts = soak.run(2, callers=8, changers=0)
    assert counts.calls > 8 and counts.mismatches == 0
    assert not soak.errors
    soak.bank.detach()


@pytest.mark.slow
def test_plain_calls_and_calls_by_name_at_once(tmp_path):
    base, x = sequential(), rows(8)
    tasks = many_tasks(base, tmp_path, 3, x)
    plain = call(base, x)
    with served(base, capacity=2) as bank:
        loaded(bank, tasks)

        def plainly():
            for _ in range(30):
                assert off(base.predict_on_batch(x), plain) <= 1e-5
                assert off(base.predict(x, verbose=0), plain) <= 1e-5
                assert JAX or off(call(base, x), plain) <= 1e-5

        def in_use(name):
            for _ in range(15):
                with bank.using(name):
                    got = base.predict(x, verbose=0)
                assert off(got, tasks[name].outputs) <= 1e-5

        def by_name(names):
            for number in range(30):
                name = names[number % len(names)]
                got = bank.predict(x, adapter=name)
                assert off(got, tasks[name].outputs) <= 1e-5

        together(
            plainly,
            lambda: in_use("t0"),
            lambda: in_use("t1"),
            lambda: by_name(["t1", "t2"]),
            lambda: by_name(["t2", "t0", "t1"]),
        )


def test_what_another_thread_uses_is_not_seen(tmp_path):
    """Compiled calls wait for the block's end; others are the base's."""
    base, x = sequential(), rows(4)
    outer = keras.Sequential([base, keras.layers.Rescaling(2.0)])
    tasks = many_tasks(base, tmp_path, 1, x)
    plain = call(base, x)
    calls = {
        "eager": lambda: call(base, x),
        "predict": lambda: base.predict(x, verbose=0),
    }
    if not JAX:
        calls["outer"] = lambda: outer.predict(x, verbose=0) / 2
    with served(base) as bank:
        loaded(bank, tasks)
        for act in calls.values():  # all compiled before
            assert off(act(), plain) <= 1e-5
        got = {}

        def calling(name, act):
            got[name] = act()

        threads = [
            threading.Thread(target=calling, args=item)
            for item in calls.items()
        ]
        with bank.using("t0"):
            for thread in threads:
                thread.start()
            threads[0].join()
            time.sleep(0.2)
            assert list(got) == ["eager"]
            for act in calls.values():
                assert off(act(), tasks["t0"].outputs) <= 1e-5
        for thread in threads:
            thread.join()
        for name in calls:
            assert off(got[name], plain) <= 1e-5, name


@pytest.mark.extra
def test_plain_calls_while_another_thread_loads(often, tmp_path):
    """As the stacks grow, and what was compiled over them is dropped."""
    base, x = sequential(), rows(8)
    first = many_tasks(base, tmp_path, 3, x, rank=1)
    more = {
        f"m{number}": make_task(
            base,
            tmp_path / f"m{number}",
            bottleneck(1 + number // 2, targets=["dense"])
            if number % 2
            else lora(2 + number // 2),
            x,
            seed=number,
        )
        for number in range(40)
    }
    plain = call(base, x)
    with served(base) as bank:
        loaded(bank, first)
        done = threading.Event()

        def reading(name, want):
            for number in itertools.count():
                if done.is_set():
                    return
                with bank.using(name):
                    if number % 3:
                        got = call(base, x)
                    else:
                        got = base.predict(x, verbose=0)
                assert off(got, want) <= 1e-5

        def plainly():
            while not done.is_set():
                assert JAX or off(call(base, x), plain) <= 1e-5
                assert off(base.predict(x, verbose=0), plain) <= 1e-5

        def growing():
            try:
                for name, task in more.items():
                    bank.load(name, task.path)
            finally:
                done.set()

        readers = [
            functools.partial(reading, name, task.outputs)
            for name, task in first.items()
        ]
        together(growing, plainly, *readers)
        got = bank.predict(x, adapter="m38")
        assert off(got, more["m38"].outputs) <= 1e-5


def test_a_model_around_the_base_predicts_while_the_bank_grows(tmp_path):
    """The function is dropped between two of its own batches."""
    if JAX:
        pytest.skip("Keras empties a model's variables while it predicts")
    base, x = sequential(), rows(8)
    outer = keras.Sequential([base, keras.layers.Rescaling(2.0)])
    task = make_task(base, tmp_path / "t", lora(2), x)
    plain = call(base, x)

    class Loading(keras.callbacks.Callback):
        def on_predict_batch_end(self, batch, logs=None):
            if batch == 1:
                bank.load("t", task.path)

    with served(base) as bank:
        got = outer.predict(x, batch_size=2, verbose=0, callbacks=[Loading()])
        assert off(got, 2 * plain) <= 1e-5
        with bank.using("t"):
            got = outer.predict(x, batch_size=2, verbose=0)
        assert off(got, 2 * task.outputs) <= 1e-5


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
    kinds = sorted(file.suffix for file in folder.iterdir())
    assert kinds == [".json", ".lock", *[".safetensors"] * 3]


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


@pytest.mark.extra
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
