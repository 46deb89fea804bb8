"""The comparison of methods runs what is wanted most first, and keeps all."""

import json
import types

import pytest

pytest.importorskip("tokenizers")

from benchmarks import methods  # noqa: E402
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
