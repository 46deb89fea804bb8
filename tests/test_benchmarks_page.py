"""The benchmarks page says what the committed results say."""

import json

import pytest

pytest.importorskip("altair")

from benchmarks import page, plots  # noqa: E402


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    monkeypatch.setattr(plots, "save", lambda chart, path: chart.to_dict())


def test_the_page_is_made_from_the_committed_results():
    assert page.PAGE.read_text("utf-8") == page.page()


def test_another_result_makes_another_page(tmp_path, monkeypatch):
    before = page.page()
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    source = page.RESULTS / "train_step.json"
    result = json.loads(source.read_text("utf-8"))
    result["sides"]["enable_lora"]["keras_lora_over_it"] = [0.1, 0.123, 0.2]
    copy = tmp_path / "benchmarks/results/train_step.json"
    copy.write_text(json.dumps(result), "utf-8")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    after = page.page()
    assert "0.12 (0.10 to 0.20)" in after and "0.12 (0.10" not in before
    assert "## Serving" not in after
