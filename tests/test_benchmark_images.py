"""The benchmark on images: what runs next, and what its table says."""

import json

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn")

from benchmarks import images as module  # noqa: E402
from benchmarks.images_sides import PROBE, SIDES, Part, attach, schedule, train  # noqa: E402
from benchmarks.images_table import best_rate, images, key  # noqa: E402

NAMES = list(SIDES)


def a_run(validation, test=0.8):
    return {
        "validation": validation,
        "test": test,
        "seconds": 60.0,
        "epoch seconds": [10.0, 12.0],
        "parameters": 1234,
        "file bytes": 5600,
        "base moved": False,
    }


def all_runs(names):
    """Every run that the benchmark asks for, in its order."""
    runs = {PROBE: {"test": 0.7, "parameters": 10, "seconds": 3.0}}
    while wanted := module.next_run(runs, names):
        name, rate, seed = wanted
        middle = rate == SIDES[name].rates[1]
        runs[key(*wanted)] = a_run(0.9 if middle else 0.5, 0.8 + seed / 100)
    return runs


def test_each_side_has_three_rates_and_then_three_seeds_at_the_best():
    runs = all_runs(NAMES)
    assert len(runs) == 1 + len(NAMES) * 5
    for name, side in SIDES.items():
        assert best_rate(runs, name) == side.rates[1]
        for seed in module.SEEDS:
            assert key(name, side.rates[1], seed) in runs


def test_of_rates_that_are_level_the_lowest_is_taken():
    runs = {key("LoRA", rate, 0): a_run(0.5) for rate in (1e-2, 1e-3, 3e-3)}
    assert best_rate(runs, "LoRA") == 1e-3


def test_what_is_there_is_not_run_again():
    runs = all_runs(NAMES)
    gone = key("LoRA", SIDES["LoRA"].rates[1], 2)
    del runs[gone]
    assert key(*module.next_run(runs, NAMES)) == gone
    assert module.next_run(runs, ["bottlenecks"]) is None


def result(runs):
    return {
        "versions": {"keras": "3"},
        "backend": "tensorflow",
        "machine": "two cores",
        "settings": {"train": 2000, "test": 1000, "pixels": 96},
        "runs": runs,
    }


def test_the_table_has_the_mean_and_the_range_of_the_seeds():
    text = images(result(all_runs(NAMES)))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 1 + len(NAMES)
    row = next(line for line in rows if line.startswith("| LoRA |"))
    for cell in ("0.810 (0.800", "3 seeds", "1,234", "| 6 |", "| 60 | 11.0 |"):
        assert cell in row


def test_the_page_names_the_sides_that_left_the_base_alone():
    runs = all_runs(NAMES)
    for name in runs:
        if name.startswith("full"):
            runs[name]["base moved"] = True
    text = images(result(runs))
    assert (
        "After the 15 runs of *LoRA*, *LoRA, last 4 blocks*, *bottlenecks* "
        in text
    )


def test_a_result_of_other_settings_is_not_added_to(tmp_path):
    path = tmp_path / "images.json"
    about = {k: v for k, v in result({}).items() if k != "runs"}
    assert module.kept(path, about) == {}
    path.write_text(json.dumps(result({"a": 1})))
    assert module.kept(path, about) == {"a": 1}
    other = {**about, "settings": {"train": 3}}
    with pytest.raises(SystemExit, match="other settings"):
        module.kept(path, other)


def test_the_rate_rises_and_then_falls_to_nothing():
    rates = [float(schedule(0.5, 100)(step)) for step in (0, 5, 10, 55, 100)]
    assert rates == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-3)


@pytest.mark.parametrize("norms", [False, True])
def test_full_fine_tuning_moves_the_norms_only_where_it_says_so(norms):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 1)(x)
    x = keras.layers.BatchNormalization()(x)
    base = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    before = {v.path: keras.ops.convert_to_numpy(v) for v in base.variables}
    name = "full fine-tuning" + ", BatchNorm trains" * norms
    model = attach(base, SIDES[name], 2)
    pictures = np.random.default_rng(0).random((8, 4, 4, 3), "float32")
    part = Part(pictures, np.arange(8) % 2)
    train(model, SIDES[name], part, 0.1, epochs=2, batch=4, each=lambda: None)
    for variable in base.variables:
        now = keras.ops.convert_to_numpy(variable)
        moved = bool((now != before[variable.path]).any())
        of_norm = "batch_normalization" in variable.path
        # A mean is taken off right after the bias, which has no gradient.
        if not variable.path.endswith("conv2d/bias"):
            assert moved == (norms or not of_norm), variable.path
