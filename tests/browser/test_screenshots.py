"""Pictures of the real demo: light and dark, at phone and desktop width.

They go to the folder in `SCREENSHOTS`, where that is set.
"""

import os
from pathlib import Path

import pytest

from tests.browser import driving

pytestmark = [pytest.mark.browser, pytest.mark.real_base]

WIDTHS = {"desktop": 1280, "phone": 390}
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 31)"}
TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"
WORDS = {
    "warm": ("sunny", "mild", "hot", "bright"),
    "cold": ("frost", "snowy", "icy", "freezing"),
}


def weather(path):
    """A small task that a few steps learn."""
    rows = [
        f"a {words[i % 4]} morning in village number {i},{label}"
        for i in range(60)
        for label, words in WORDS.items()
    ]
    path.write_text("\n".join(["text,label", *rows]))
    return path


@pytest.fixture
def folder(tmp_path):
    found = Path(os.environ.get("SCREENSHOTS", tmp_path))
    found.mkdir(parents=True, exist_ok=True)
    return found


def pictures(page, folder, name):
    """The page as it stands, in both themes at both widths."""
    for size, width in WIDTHS.items():
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            driving.whole(page, width)
            file = folder / f"{name}-{scheme}-{size}.png"
            page.screenshot(path=file)
            assert file.stat().st_size > 5_000
            assert background(page) == BACKGROUNDS[scheme]
            # Nothing is wider than the screen.
            assert not page.evaluate(TOO_WIDE), f"{file.name} is too wide"


def background(page):
    return page.get_by_test_id("stApp").evaluate(
        "app => getComputedStyle(app).backgroundColor"
    )


def test_every_page_has_its_pictures(real_demo, page, folder, tmp_path):
    driving.open_page(page, real_demo, "?task=Text+source")
    assert driving.metric(page, "Prediction").endswith(" ms")
    driving.idle(page)
    pictures(page, folder, "switch")
    driving.run_mixed_batch(page, real_demo)
    pictures(page, folder, "mixed")
    driving.open_page(page, real_demo, "adapters")
    pictures(page, folder, "adapters")
    driving.open_page(page, real_demo, "how")
    pictures(page, folder, "how")
    csv = weather(tmp_path / "weather.csv")
    driving.choose_own(page, real_demo, csv)
    pictures(page, folder, "csv")
    driving.press(page, "Start training")
    page.get_by_test_id("stVegaLiteChart").first.wait_for()
    pictures(page, folder, "training")
    page.get_by_role("button", name="Add to the bank").wait_for()
    driving.idle(page)
    pictures(page, folder, "trained")
    driving.press(page, "Train another")
    driving.idle(page)
    pictures(page, folder, "train")
