"""Figures in words, and the lines of code that the demo shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.serve.csv_table import guess_columns, read_table
from app.serve.csv_upload import labelled
from app.serve.snippet import snippet
from app.views import words
from tests.app.tiny import adapter

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("right", "count", "said", "interval"),
    [
        (6, 6, "6 of 6", "61% to 100%"),
        (0, 6, "0 of 6", "0% to 39%"),
        (99, 99, "99 of 99", "96% to 100%"),
        (871, 1000, "87.1%", "85% to 89%"),
    ],
)
def test_a_share_of_few_texts_is_a_count(right, count, said, interval):
    assert words.rightness(right, count) == said
    assert words.interval(right, count) == interval


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (100, 230, "2.3 times as fast: 100 ms for 230"),
        (100, 102, "As fast: 100 ms, and 102"),
        (100, 50, "Slower here: 100 ms, where it took 50"),
    ],
)
def test_a_comparison_says_who_was_faster(one, other, said):
    assert words.faster(one, other) == said


def test_counts_have_their_plural():
    assert words.plural(1, "row") == "1 row"
    assert words.plural(1200, "row") == "1,200 rows"
    assert words.number(5) == "Five" and words.number(12) == "12"


def test_the_sample_file_is_one_that_can_be_learned_from():
    table = read_table((ROOT / "app" / "sample.csv").read_bytes())
    upload = labelled(table, *guess_columns(table))
    assert upload.classes == ("account", "billing", "delivery")
    assert len(upload.corpus) == 60 and not upload.told


SMALL_BASE = """
import app.texts.base
from tests.app.tiny import TinyTokenizer, tiny_base
app.texts.base.load_base, app.texts.base.Tokenizer = tiny_base, TinyTokenizer
"""


@pytest.mark.parametrize("text", ["good", 'it\'s """ \\ {bad}', "two\nlines"])
def test_the_lines_of_code_run_as_they_stand(tmp_path, text, run_code):
    file = adapter(tmp_path / "my task (own).safetensors")
    shown = snippet(file.name, ("no 'way'", "yes"), text)
    assert (
        run_code(SMALL_BASE + shown, tmp_path)
        .rstrip("\n")
        .endswith(f"- {text}")
    )


@pytest.fixture
def run_code():
    def run(code, folder):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_how_it_works_names_nothing_that_is_not_there(tmp_path, run_code):
    page = (ROOT / "app" / "app_pages" / "how.py").read_text("utf-8")
    code = page.partition('CODE = """')[2].partition('"""')[0]
    shown = code + "\nprint(*map(np.shape, outputs))"
    assert run_code(shown, tmp_path).splitlines()[-1] == "(2,) (32,)"
