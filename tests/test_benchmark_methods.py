"""The comparison of methods runs what is wanted most first, and keeps all."""

import json
import types

import keras
import numpy as np
import pytest

pytest.importorskip("tokenizers")

from benchmarks import methods, methods_time  # noqa: E402
from benchmarks.methods_list import FULL, METHODS, QUICK  # noqa: E402
from benchmarks.methods_plan import key, next_run, wanted_rates  # noqa: E402
from benchmarks.methods_runs import SEEDS, TASKS  # noqa: E402


def run_all(runs, plan, validation=lambda rate: 0.5):
    """Does every missing run in no time; they in their order."""
    done = []
    while wanted := next_run(runs, plan, list(METHODS)):
        runs[key(plan, *wanted)] = {"validation": validation(wanted[2])}
        done.append(wanted)
    return done


def test_the_full_plan_goes_seed_by_seed_with_three_rates():
    done = run_all({}, FULL)
    assert [run[3] for run in done] == sorted(run[3] for run in done)
    first = [run for run in done if run[3] == SEEDS[0]]
    assert [run[0] for run in first] == sorted(
        (run[0] for run in first), key=TASKS.index
    )
    names = list(dict.fromkeys(run[1] for run in first))
    assert names == list(METHODS) and names[:2] == ["lora", "full fine-tuning"]
    assert len(first) == 3 * len(METHODS) * len(TASKS)
    assert len(done) == len(first) + 2 * len(METHODS) * len(TASKS)


@pytest.mark.parametrize(
    ("place", "expected"), [(0, (0, 3)), (2, (1, 4)), (4, (2, 5))]
)
def test_its_rates_are_those_around_the_quick_plan_s_best(place, expected):
    rates, runs = METHODS["lora"].rates, {}
    run_all(runs, QUICK, lambda rate: -abs(rate - rates[place]))
    found = wanted_rates(runs, FULL, TASKS[0], "lora")
    assert found == rates[slice(*expected)]


def test_a_seed_after_the_first_has_the_best_rate():
    rates = METHODS["lora"].rates
    done = run_all({}, FULL, lambda rate: rate)
    later = {run[2] for run in done if run[1] == "lora" and run[3]}
    assert later == {rates[3]}


class SmallBench:
    """Steps of a model of one layer."""

    def batches(self):
        return [
            [({"token_ids": np.ones((4, size), "float32")}, np.zeros(4, int))]
            for size in (6, 6)
        ]

    def base_for(self, method, own):
        assert own
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])

    def headed(self, base, method, rate, steps):
        x = keras.Input((6,), name="token_ids")
        model = keras.Model({"token_ids": x}, keras.layers.Dense(2)(base(x)))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(method.optimizer(rate), loss)
        return model


def test_steps_of_all_methods_are_timed_in_turn(monkeypatch):
    few = {name: METHODS[name] for name in ("lora", "full fine-tuning")}
    monkeypatch.setattr(methods_time, "METHODS", few)
    found = methods_time.step_times(SmallBench(), 3)
    assert found["rounds"] == 3 and found["shapes"] == [[4, 6], [4, 6]]
    assert set(found["methods"]) == set(few)
    assert found["methods"]["full fine-tuning"]["over_full"] == [1, 1, 1]
    for times in found["methods"].values():
        assert times["milliseconds"] == sorted(times["milliseconds"])
        assert times["milliseconds"][0] > 0


def test_times_are_kept_with_the_runs(tmp_path, monkeypatch):
    file = tmp_path / "methods.json"
    file.write_text(
        json.dumps({"machine": "one", "runs": {"full/a/lora/0.1/0": {}}})
    )
    monkeypatch.setattr(methods, "Bench", lambda plan: None)
    monkeypatch.setattr(methods, "step_times", lambda *_: {"methods": {}})
    options = types.SimpleNamespace(json=file, rounds=2)
    methods.measure_times(options)
    methods.write(file, FULL, {})
    found = json.loads(file.read_text())
    assert found["times"] == {"methods": {}}
    assert found["runs"] == {"full/a/lora/0.1/0": {}}


def test_a_run_of_one_plan_keeps_those_of_the_other(tmp_path, monkeypatch):
    file = tmp_path / "methods.json"
    file.write_text(
        json.dumps(
            {"machine": "a small one", "runs": {"quick/a/lora/0.1/0": {}}}
        )
    )
    wanted = (TASKS[0], "lora", 0.002, 0)
    left = [None, wanted]
    monkeypatch.setattr(methods, "next_run", lambda *_: left.pop())
    monkeypatch.setattr(
        methods,
        "Bench",
        lambda plan: types.SimpleNamespace(
            probe=lambda task: {"test": 0.5},
            run=lambda *run: {"test": 0.75, "seconds": 1},
        ),
    )
    options = types.SimpleNamespace(
        quick=False, json=file, minutes=1, method=["lora"], task=TASKS
    )
    methods.run_missing(options, {})
    found = json.loads(file.read_text())
    assert found["runs"]["quick/a/lora/0.1/0"] == {}
    assert found["runs"][key(FULL, *wanted)]["test"] == 0.75
    assert found["machines"]["quick"] == "a small one"
    assert set(found["machines"]) == {"quick", "full"}


def test_a_task_may_be_measured_alone():
    task, name, *_ = next_run({}, FULL, ["ia3"], TASKS[1:])
    assert (task, name) == (TASKS[1], "ia3")
