"""The comparison's cells about keras_lora are held by tests that exist."""

import ast
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_lora
from tests.helpers import normal
from tests.models import same_bits, values_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/comparison.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
TABLES, _, REST = PAGE.partition("The rest of this page")
HELD = REST.partition("## What holds our cells")[2]


def rows(text):
    """The lines of a text's tables by their first cell, without heads."""
    lines = re.findall(r"^\| (?!\|)(.+?) \|.*$", text, re.M)
    return [re.sub(r"\[\^\w+\]", "", line) for line in lines]


def held_by():
    """The tests that the page names for each row."""
    entries = re.split(r"^- ", HELD, flags=re.M)[1:]
    return {
        name: re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        for name, _, tests in (entry.partition(":\n") for entry in entries)
    }


def test_every_row_has_its_tests_and_every_entry_its_row():
    assert len(rows(TABLES)) > 25
    assert rows(TABLES) == list(held_by())
    assert all(held_by().values())


@pytest.mark.parametrize("row", held_by())
def test_the_tests_of_a_row_exist(row):
    for file, name in held_by()[row]:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        there = {
            node.name for node in tree.body if isinstance(node, ast.FunctionDef)
        }
        assert name in there, f"{file} has no {name}"


def test_the_readme_s_rows_are_those_of_the_page():
    _, _, part = README.partition("## What it does, and what else there is")
    found = [line for line in part.splitlines() if line.startswith("| ")]
    assert len(found) > 8
    assert set(found) <= set(TABLES.splitlines())


def test_every_footnote_is_used_and_said():
    used = re.findall(r"\[\^(\w+)\](?!:)", TABLES)
    said = re.findall(r"^\[\^(\w+)\]:", TABLES, re.M)
    assert used and sorted(used) == sorted(said)


def test_ci_runs_the_core_on_every_backend():
    ci = (ROOT / ".ci/run").read_text("utf-8")
    sections = re.findall(r"^section \S+ .* core (\w+)$", ci, re.M)
    assert set(sections) == {"torch", "jax"}
    assert 'os.environ.setdefault("KERAS_BACKEND", "tensorflow")' in (
        ROOT / "tests/conftest.py"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    "config",
    [
        keras_lora.LoRAConfig(2),
        keras_lora.AdapterConfig(2, targets=["dense"]),
    ],
    ids=["lora", "bottleneck"],
)
def test_training_leaves_the_base_and_its_statistics(config):
    base = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5), layers.BatchNormalization()]
    )
    before, x = values_of(base.weights), 3 + normal(16, 6)
    weights, outputs = base.weights, base.predict(x, verbose=0)
    model = keras.Sequential([base, layers.Dense(2)])
    keras_lora.inject(base, config)
    model.trainable = True
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(x, normal(16, 2), epochs=2, verbose=0)
    assert np.abs(base.predict(x, verbose=0) - outputs).max() > 1e-3
    assert same_bits(values_of(weights), before)
    keras_lora.eject(base)
    assert np.array_equal(base.predict(x, verbose=0), outputs)
