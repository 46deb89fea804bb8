"""What a newcomer sees first, and what a visitor's own texts come to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.learn.shipped import SHIPPED
from app.texts.tasks import get_task
from tests.app.tiny import csv_bytes
from tests.browser import driving

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
MESSY = ROOT / "tests" / "app" / "messy"
HEADINGS = """() => [...document.querySelectorAll(
  '[data-testid="stMain"] :is(h1, h2, h3, h4)'
)].map(found => Number(found.tagName[1]))"""
FOCUSED = """() => {
  const link = document.activeElement;
  return [link.textContent, getComputedStyle(link).outlineStyle];
}"""
TEXT_AREA = "textarea"


def examples(task):
    return get_task(task).examples


def test_the_first_screen_tells_what_it_is_about(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    main = page.get_by_test_id("stMain")
    said = main.inner_text()
    assert re.search(r"Six tasks, one model: \d+ MB in memory instead of", said)
    assert page.locator(TEXT_AREA).input_value() == examples(SHIPPED[0])[0]
    table = main.locator("table").first
    assert table.locator("tbody tr").count() == len(SHIPPED)
    assert "in one pass of the model" in said


def test_an_example_changes_with_the_task_and_own_words_stay(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    driving.pick_task(page, "Tweet sentiment")
    area = page.locator(TEXT_AREA)
    assert area.input_value() == examples("tweet-sentiment")[0]
    area.fill("my own words")
    area.press("Control+Enter")
    driving.idle(page)
    driving.pick_task(page, "Movie sentiment")
    assert area.input_value() == "my own words"


def test_a_text_of_another_task_is_told_to_be_one(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    area = page.locator(TEXT_AREA)
    area.fill(examples("tweet-sentiment")[1])
    area.press("Control+Enter")
    page.get_by_text("This text came with “Tweet sentiment”").wait_for()


def test_a_mixed_batch_says_how_much_faster_it_is(tiny_demo, page):
    driving.run_mixed_batch(page, tiny_demo)
    told = page.locator("h2").first.inner_text()
    assert re.search(r"(as fast|Slower here).*\d+ ms", told, re.I)
    assert page.get_by_text("Both ways were warmed up").count()


def test_a_training_tells_what_it_does_and_what_it_came_to(
    tiny_demo, page, tmp_path
):
    csv = tmp_path / "own.csv"
    csv.write_bytes(csv_bytes(120))
    driving.start_own(page, tiny_demo, csv)
    # Before the first step: what is done, and since when.
    page.get_by_text(
        re.compile(r"(Loading|Measuring|Preparing).*: \d+ s")
    ).first.wait_for()
    page.get_by_role("button", name="Add to the bank").wait_for()
    driving.idle(page)
    buttons = page.get_by_test_id("stMain").get_by_role("button")
    assert "Download the adapter" in buttons.first.inner_text()
    said = page.get_by_test_id("stMain").inner_text()
    assert "If you close or reload the page" in said
    right = driving.metric(page, "This adapter")
    assert re.fullmatch(r"\d+ of 12", right)
    assert re.search(r"95% interval of this adapter's share: \d+% to", said)
    assert "12 texts are too few" in said
    driving.press(page, "Add to the bank")
    page.get_by_text("can now be asked").wait_for()
    page.get_by_role("link", name="Switch").first.click()
    driving.idle(page)
    driving.pick_task(page, "own (own)")
    assert page.get_by_text(f"this adapter is right in {right}").count()
    assert page.locator(".st-key-frozen h2").count()


def test_a_wrong_answer_is_set_right_and_learned_from(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    area = page.locator(TEXT_AREA)
    area.fill("a bright strong fine mess")
    area.press("Control+Enter")
    driving.idle(page)
    given = driving.verdict(page).split(",")[0]
    right = {"negative": "positive", "positive": "negative"}[given]
    group = page.get_by_test_id("stButtonGroup").filter(
        has_text="Is that wrong"
    )
    group.get_by_text(right, exact=True).click()
    link = page.get_by_role("link", name="Train on your 1 correction")
    link.wait_for()
    link.click()
    page.get_by_text("goes on from what it knows").wait_for()
    driving.idle(page)
    assert (
        page.get_by_label("Learn from")
        .first.input_value()
        .startswith("Your corrections")
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("semicolons-cp1252.csv", "61 rows, read as Windows-1252"),
        ("tabs-utf16.csv", "read as UTF-16 with tabs"),
        ("many-columns.csv", "without a label left out"),
    ],
)
def test_a_messy_csv_is_read(tiny_demo, page, name, told):
    driving.open_page(page, tiny_demo, "train")
    driving.choose(page, "Learn from", "Your own CSV")
    assert page.get_by_role("button", name="A sample file").count()
    assert page.get_by_text("The model reads English").count()
    driving.hand_in(page, MESSY / name)
    page.get_by_text(told).wait_for()
    for column in ("Texts", "Labels"):
        assert page.get_by_label(column, exact=True).count()
    assert driving.metric(page, "Trainable weights")


def test_more_rows_than_the_limit_are_drawn_from(tiny_demo, page, tmp_path):
    csv = tmp_path / "many.csv"
    csv.write_bytes(csv_bytes(6000))
    driving.open_page(page, tiny_demo, "train")
    driving.choose(page, "Learn from", "Your own CSV")
    driving.hand_in(page, csv)
    page.get_by_text("5,000 of 6,000 rows drawn at random").wait_for()


@pytest.mark.parametrize("method", ["Bottleneck", "Ladder"])
def test_other_methods_can_be_trained(tiny_demo, page, tmp_path, method):
    csv = tmp_path / "own.csv"
    csv.write_bytes(csv_bytes(120))
    driving.open_page(page, tiny_demo, "train")
    driving.choose(page, "Learn from", "Your own CSV")
    driving.hand_in(page, csv)
    page.get_by_role("radio", name=method).click()
    driving.idle(page)
    driving.press(page, "Start training")
    page.get_by_role("button", name="Add to the bank").wait_for()
    driving.press(page, "Add to the bank")
    page.get_by_text("can now be asked").wait_for()


@pytest.mark.parametrize("name", ["", "mixed", "train", "adapters", "how"])
def test_headings_go_down_step_by_step_and_pages_have_titles(
    tiny_demo, page, name
):
    driving.open_page(page, tiny_demo, name)
    assert page.title().endswith("· keras_lora")
    levels = page.evaluate(HEADINGS)
    assert levels[0] == 1 and levels.count(1) == 1
    steps = zip(levels, levels[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)


def test_answers_are_said_aloud_and_the_focus_is_seen(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    said = page.locator('[role="status"][aria-live="polite"]')
    first = said.first.inner_text()
    assert first.startswith("Movie sentiment: ")
    driving.pick_task(page, "Text source")
    assert said.first.inner_text().startswith("Text source: ")
    page.get_by_role("link", name="Switch").first.focus()
    page.keyboard.press("Tab")
    text, outline = page.evaluate(FOCUSED)
    assert "Mixed batch" in text and outline == "solid"


def test_a_phone_shows_task_names_whole(tiny_demo, browser):
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.set_default_timeout(driving.PATIENCE)
    driving.open_page(page, tiny_demo)
    pills = page.get_by_test_id("stButtonGroup").first.get_by_role("radio")
    cut = "found => found.scrollWidth > found.clientWidth + 1"
    assert pills.count() == len(SHIPPED)
    assert not any(pill.evaluate(cut) for pill in pills.all())
    context.close()


@pytest.mark.real_base
def test_the_shown_lines_run_on_the_downloaded_file(real_demo, page, tmp_path):
    driving.open_page(page, real_demo, "adapters")
    with page.expect_download() as download:
        driving.press(page, "Download")
    name = download.value.suggested_filename
    download.value.save_as(tmp_path / name)
    page.get_by_text("Use it in Python").click()
    driving.idle(page)
    code = page.get_by_test_id("stCode").first.locator("code").inner_text()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert examples(SHIPPED[0])[0] in done.stdout
    assert done.stdout.startswith("positive")
