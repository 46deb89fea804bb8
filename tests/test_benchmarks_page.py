"""The pages of results say what the committed results say."""

import json
import re

import pytest

pytest.importorskip("altair")

from benchmarks import glance, page, plots  # noqa: E402
from benchmarks.labels import in_order, placed  # noqa: E402

BENCHMARKS = page.ROOT / "docs/benchmarks.md"


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(plots, "save", lambda chart, path: chart.to_dict())


def result(name):
    """A committed result."""
    return json.loads(page.file_of(name).read_text("utf-8"))


@pytest.mark.parametrize("path", page.PAGES, ids=lambda path: path.name)
def test_a_page_is_made_from_the_committed_results(path):
    assert path.read_text("utf-8") == page.written(page.PAGES[path])


def test_another_result_makes_another_page(tmp_path, monkeypatch):
    before = page.written(page.BENCHMARKS)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    found = result("train_step")
    found["sides"]["enable_lora"]["keras_lora_over_it"] = [0.1, 0.123, 0.2]
    copy = tmp_path / "benchmarks/results/train_step.json"
    copy.write_text(json.dumps(found), "utf-8")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    after = page.written(page.BENCHMARKS)
    assert "0.12 (0.10\xa0to\xa00.20)" in after and "0.12 (0.10" not in before
    assert "takes 0.12 of the time of Keras's `enable_lora`" in after
    assert "## Serving" in before and "## Serving" not in after


def test_every_result_has_a_section():
    named = {
        page.file_of(name)
        for one in page.PAGES.values()
        for group in one.groups
        for name, _ in group.sections
    }
    assert set(page.RESULTS.glob("*.json")) <= named


def test_every_picture_is_committed():
    pictures = re.findall(r"\]\((assets/[\w.-]+)\)", BENCHMARKS.read_text())
    assert len(pictures) >= 4
    assert all((page.ROOT / "docs" / path).is_file() for path in pictures)


def full(runs):
    """The same runs as if all texts had been trained on."""
    return {
        run.replace("quick/", "full/"): value for run, value in runs.items()
    }


def test_all_texts_come_first_once_they_are_measured():
    found = result("methods")
    quick = {k: v for k, v in found["runs"].items() if "quick/" in k}
    found["runs"] = quick
    assert glance.accuracy(found).count("512 texts, 2 epochs") == 1
    assert "All texts, 3 epochs: not measured yet." in page.methods(found)
    found["runs"] = quick | full(quick)
    text = page.methods(found)
    assert "not measured yet." not in text.lower().partition("### ")[0]
    assert glance.accuracy(found).count("All texts, 3 epochs") == 1
    first, second = text.split("## Methods on a short budget")
    assert first.count("| LoRA |") == second.count("| LoRA |") == 2


def test_what_is_cut_is_named_and_left_out():
    found = result("methods")
    quick = {k: v for k, v in found["runs"].items() if "quick/" in k}
    part = {
        run: value
        for run, value in full(quick).items()
        if "/tweet" in run and ("/lora/" in run or "probe" in run)
    }
    found["runs"] = quick | part
    text = page.methods(found).split("## Methods on a short budget")[0]
    assert "| LoRA |" in text and "| DoRA |" not in text
    assert re.search(r"Not measured yet on tweets: full fine-tuning, rs", text)
    assert "on product reviews: frozen probe, full fine-tuning, LoRA," in text
    assert glance.accuracy(found).count("512 texts, 2 epochs") == 1


def test_no_label_covers_another_or_a_point():
    crowd = [(f"method {n}", 100 + 9 * (n % 4), 100 + 7 * n) for n in range(12)]
    labels = placed(crowd, 280, 320, 12)
    assert [label.text for label in labels] == [name for name, *_ in crowd]
    order = list(range(len(crowd)))
    _, greedy = in_order(crowd, order, (280, 320), 12)
    assert greedy < 1000
    assert all(0 <= label.x <= 280 and 0 <= label.y <= 320 for label in labels)
