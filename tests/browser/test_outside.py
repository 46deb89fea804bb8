"""Text from outside in a real browser: shown as it is written, no request.

One test for each place that shows it; `page` lets no request out.
"""

from urllib.parse import quote, urlsplit

import pytest

from tests.app.outside import (
    ALL,
    FILE_NAME,
    LABELS,
    MORE,
    csv_of,
    of_a_strange_class,
)
from tests.app.tiny import adapter
from tests.browser import driving
from tests.marks import pairs

pytestmark = pytest.mark.browser

ACTING = """() => [...document.querySelectorAll(
  'a[href*="evil"], a[href="y"], img[src*="p.png"], .katex, b,'
  + ' .stMarkdownColoredText:not(:empty)'
)].map(found => found.outerHTML)
"""
"""What the texts would have become."""


@pytest.fixture
def page(page, tiny_demo):
    """A page that tells which requests it tried to send elsewhere."""
    strangers = []

    def look(route):
        if urlsplit(route.request.url).netloc == urlsplit(tiny_demo).netloc:
            route.continue_()
        else:
            strangers.append(route.request.url)
            route.abort()

    page.context.route("**/*", look)
    yield page
    assert not strangers


def shown(page, text):
    """The text is there, and nothing on the page came of one."""
    page.get_by_text(text).filter(visible=True).first.wait_for()
    driving.idle(page)
    assert not page.evaluate(ACTING)


def cells(page, text):
    """The text is in a table, whose cells a screen reader can read."""
    found = page.locator('[role="gridcell"]').filter(has_text=text)
    found.first.wait_for(state="attached")
    assert not page.evaluate(ACTING)


def go(page, name):
    page.get_by_role("link", name=name, exact=True).first.click()
    driving.idle(page)


def over_charts(page):
    """Moves the pointer over each chart: its tooltip is no markup either."""
    for chart in page.get_by_test_id("stVegaLiteChart").all():
        box = chart.bounding_box()
        chart.scroll_into_view_if_needed()
        for share in (0.2, 0.4, 0.6):
            chart.hover(
                position={
                    "x": box["width"] * share,
                    "y": box["height"] * share,
                }
            )
            page.wait_for_timeout(100)
            assert not page.evaluate(ACTING)


@pytest.mark.parametrize("text", pairs([ALL], [t[:60] for t in MORE]))
def test_the_task_in_the_address(tiny_demo, page, text):
    driving.open_page(page, tiny_demo, f"?task={quote(text)}")
    shown(page, f"There is no task “{text}” here")
    # What the page says is the text to the letter, links and icons included.
    body = page.get_by_test_id("stAlert").first
    said = body.get_by_test_id("stMarkdownContainer").first.text_content()
    assert f"“{text}”" in said
    assert not body.locator("a, img, em, code, ul, ol, [role=img]").count()


@pytest.fixture
def own(tiny_demo, page, tmp_path):
    """The page Adapters, where an adapter was brought."""
    file = tmp_path / f"{FILE_NAME}.safetensors"
    adapter(tmp_path / "a.safetensors").rename(file)
    driving.open_page(page, tiny_demo, "adapters")
    page.get_by_label("Labels, separated").fill(f"{ALL} 1, {ALL} 2")
    driving.hand_in(page, file)
    driving.press(page, "Load it")
    shown(page, f"“{FILE_NAME}” is in the bank")
    return page


def test_an_adapter_s_title_and_labels_on_the_page_adapters(own):
    cells(own, FILE_NAME)
    cells(own, f"{ALL} 1, {ALL} 2")
    picker = own.locator(".st-key-shown").get_by_role("combobox")
    option = own.get_by_role("option").filter(has_text=FILE_NAME)
    for _ in range(20):
        # The list closes again where a chart that is drawn moves the page.
        picker.press("ArrowDown")
        own.wait_for_timeout(300)
        if option.count():
            break
    assert option.inner_text() == FILE_NAME
    picker.fill(FILE_NAME)
    picker.press("Enter")
    driving.idle(own)
    assert picker.input_value() == FILE_NAME
    assert not own.evaluate(ACTING)
    over_charts(own)
    with own.expect_download() as download:
        driving.press(own, "Download")
    assert download.value.suggested_filename.endswith(".safetensors")


def test_an_adapter_s_title_and_labels_on_the_page_switch(own):
    go(own, "Switch")
    driving.pick_task(own, FILE_NAME)
    shown(own, FILE_NAME)
    assert driving.verdict(own).startswith(f"{ALL} ")
    over_charts(own)
    own.get_by_label("Text", exact=True).fill(ALL)
    own.keyboard.press("Control+Enter")
    driving.idle(own)
    assert not own.evaluate(ACTING)


def test_an_adapter_s_title_and_labels_in_a_mixed_batch(own):
    go(own, "Mixed batch")
    cells(own, "Movie sentiment")
    driving.press(own, "Answer all rows")
    driving.metric(own, "Largest difference")
    driving.idle(own)
    assert not own.evaluate(ACTING)


def test_a_refused_adapter(tiny_demo, page, tmp_path):
    data = of_a_strange_class(tmp_path / "a.safetensors")
    file = tmp_path / f"{FILE_NAME}.safetensors"
    file.write_bytes(data)
    driving.open_page(page, tiny_demo, "adapters")
    driving.hand_in(page, file)
    driving.press(page, "Load it")
    shown(page, ALL)
    shown(page, f"{FILE_NAME} was not ")


@pytest.mark.parametrize(
    ("data", "text"),
    pairs(
        [(csv_of(header=ALL), ALL[:30])],
        [
            (csv_of(LABELS[:1]), LABELS[0]),
            (csv_of(["a"] * 12 + [LABELS[0]]), LABELS[0]),
            (b"\xff", f"{FILE_NAME}.csv was not taken"),
        ],
    ),
    ids=["header", "one label", "few of a label", "name"],
)
def test_a_refused_csv(tiny_demo, page, tmp_path, data, text):
    file = tmp_path / f"{FILE_NAME}.csv"
    file.write_bytes(data)
    driving.open_page(page, tiny_demo, "train")
    driving.choose(page, "Learn from", "Your own CSV")
    driving.hand_in(page, file)
    shown(page, text)


@pytest.mark.extra
def test_what_was_trained_on_a_csv(tiny_demo, page, tmp_path):
    file = tmp_path / f"{FILE_NAME}.csv"
    file.write_bytes(csv_of())
    driving.train_own(page, tiny_demo, file)
    shown(page, f"Trained: {FILE_NAME}")
    over_charts(page)
    driving.press(page, "Add to the bank")
    shown(page, f"“{FILE_NAME} (own)” can now")
    go(page, "Switch")
    driving.pick_task(page, f"{FILE_NAME} (own)"[:40])
    assert driving.verdict(page).startswith(LABELS)
    over_charts(page)


def test_no_page_asks_another_host(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    for name in ("Mixed batch", "Train", "Adapters", "How it works"):
        go(page, name)
