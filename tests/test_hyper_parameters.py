"""The sweep of hyper-parameters: its texts, its order, what it says."""

import numpy as np
import pytest

pytest.importorskip("keras_hub")
pytest.importorskip("sklearn")

from app.texts.data import Split, Splits  # noqa: E402
from benchmarks.hyper_parameters import VARIANTS, few_texts, next_run, to_beat  # noqa: E402
from benchmarks.hyper_parameters_table import (  # noqa: E402
    DEFAULTS,
    best_variant,
    difference,
    hyper_parameters,
)

HALF = "learning rate 0.001"


def split_of(name, count):
    texts = [f"{name} {number}" for number in range(count)]
    return Split(texts, np.zeros(count, "int32"))


def run(validation, wrong):
    return {
        "validation": validation,
        "held out": 1 - len(wrong) / 100,
        "texts": 100,
        "wrong": wrong,
        "seconds": 1.0,
    }


def test_no_text_is_in_two_parts():
    splits = Splits(*map(split_of, ("train", "check", "test"), (60, 10, 10)))
    few = few_texts(splits, 20, 15, 40)
    parts = [set(part.texts) for part in (few.train, few.validation, few.test)]
    assert [len(part) for part in parts] == [20, 15, 40]
    assert len(set.union(*parts)) == 75
    assert set(splits.test.texts) <= parts[2]


def test_held_out_texts_are_as_many_as_there_are():
    splits = Splits(*map(split_of, ("train", "check", "test"), (30, 10, 10)))
    few = few_texts(splits, 20, 15, 40)
    assert (len(few.validation), len(few.test)) == (15, 15)
    assert not set(few.validation.texts) & set(few.test.texts)


def test_rates_come_before_ranks_and_seeds_come_last():
    runs = {}
    while wanted := next_run(runs, ["a", "b"], seeds=2):
        task, variant, seed = wanted
        better = variant == HALF and task == "b"
        name = f"{task}/{variant}/{seed}"
        assert name not in runs
        runs[name] = run(0.9 if better else 0.8, [])
    names = list(runs)
    assert names[:2] == [f"a/{DEFAULTS}/0", f"b/{DEFAULTS}/0"]
    assert names.index("b/learning rate 0.004/0") < names.index("a/rank 2/0")
    assert len(names) == 2 * len(VARIANTS) + 3
    assert names[-3:] == [f"a/{DEFAULTS}/1", f"b/{DEFAULTS}/1", f"b/{HALF}/1"]


def test_the_best_is_chosen_by_validation_and_compared_on_the_same_texts():
    runs = {
        f"a/{DEFAULTS}/0": run(0.90, [0, 1, 2, 3]),
        f"a/{HALF}/0": run(0.95, [0, 1, 2]),
        "a/rank 2/0": run(0.85, []),
    }
    assert best_variant(runs, "a") == HALF
    plain, best = difference(runs, "a")["pair"]
    gain = best - plain
    assert gain.mean() == pytest.approx(0.01)
    assert gain.std() / 10 == pytest.approx(0.00995, abs=1e-5)
    start = {"learning_rate": 0.002}
    about = {"machine": "one", "backend": "numpy", "versions": {}}
    result = {**about, "settings": {}, "start": start, "runs": runs}
    page = hyper_parameters(result)
    assert "within a point of the best on 1 of 1 tasks" in page
    assert "| 96.0 ± 2.0 | learning rate 0.001 |" in page
    assert "| +1.0 ± 1.0 | 1 | 100 |" in page


def test_settings_that_lose_in_validation_do_not_see_the_held_out_texts():
    runs = {
        f"a/{DEFAULTS}/0": run(0.90, []),
        "a/rank 2/0": run(0.95, []),
        f"b/{DEFAULTS}/0": run(0.99, []),
    }
    assert to_beat(runs, "a", HALF, 0) == 0.95
    assert to_beat(runs, "a", HALF, 1) == 0
    assert to_beat(runs, "a", DEFAULTS, 0) == 0


def test_equals_leave_the_defaults():
    runs = {f"a/{HALF}/0": run(0.9, []), f"a/{DEFAULTS}/0": run(0.9, [])}
    assert best_variant(runs, "a") == DEFAULTS
