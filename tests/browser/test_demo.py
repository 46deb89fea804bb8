"""The demo in a real browser, on a small base: what people do with it."""

import os
import re
import time

import pytest

import keras_lora
from tests.app.tiny import adapter, csv_bytes
from tests.browser import driving
from tests.browser.conftest import server

pytestmark = pytest.mark.browser


def test_a_task_is_switched_and_the_address_can_be_shared(tiny_demo, page):
    driving.open_page(page, tiny_demo)
    first = driving.verdict(page)
    driving.pick_task(page, "Text source")
    assert "task=Text" in page.url
    second = driving.verdict(page)
    assert second != first
    assert driving.metric(page, "Adapter lookup").endswith(" ms")
    other = page.context.new_page()
    other.set_default_timeout(driving.PATIENCE)
    driving.open_page(other, tiny_demo, "?task=Text+source")
    assert driving.verdict(other).split(",")[0] in (
        "film review",
        "tweet",
        "product review",
        "editorial",
    )


def test_two_visitors_on_different_tasks_keep_their_own(tiny_demo, browser):
    pages = []
    for task in ("Movie+sentiment", "Tweet+sentiment"):
        page = browser.new_context().new_page()
        page.set_default_timeout(driving.PATIENCE)
        driving.open_page(page, tiny_demo, f"?task={task}")
        pages.append((page, driving.verdict(page)))
    for _ in range(3):
        for page, _ in pages:
            page.reload()
        for page, expected in pages:
            driving.idle(page)
            assert driving.verdict(page) == expected
    for page, _ in pages:
        page.context.close()


def test_a_mixed_batch_is_answered(tiny_demo, page):
    driving.run_mixed_batch(page, tiny_demo)
    assert float(driving.metric(page, "Largest difference")) < 1e-4


def test_an_adapter_is_trained_downloaded_and_brought_back(
    tiny_demo, page, tmp_path
):
    csv = tmp_path / "mine.csv"
    csv.write_bytes(csv_bytes(120))
    driving.train_own(page, tiny_demo, csv)
    assert driving.metric(page, "This adapter").endswith(" of 12")
    with page.expect_download() as download:
        driving.press(page, "Download the adapter")
    file = tmp_path / "mine.safetensors"
    download.value.save_as(file)
    info = keras_lora.inspect_adapter(file)
    assert info.methods == ("lora",)
    driving.open_page(page, tiny_demo, "adapters")
    driving.hand_in(page, file)
    driving.press(page, "Load it")
    page.get_by_text("is in the bank").wait_for()
    page.get_by_role("link", name="Switch").first.click()
    driving.idle(page)
    driving.pick_task(page, "mine")
    assert driving.verdict(page).split(",")[0] in info.labels
    stranger = page.context.browser.new_context().new_page()
    driving.open_page(stranger, tiny_demo)
    assert stranger.get_by_text("Text source").count()
    assert not stranger.get_by_text("mine", exact=True).count()
    stranger.context.close()


def test_a_run_is_stopped_and_kept(tiny_demo, page, tmp_path):
    csv = tmp_path / "long.csv"
    csv.write_bytes(csv_bytes(1000))
    driving.start_own(page, tiny_demo, csv, most=True)
    page.get_by_test_id("stVegaLiteChart").first.wait_for()
    driving.press(page, "Stop and keep what is trained")
    page.get_by_role("button", name="Add to the bank").wait_for()
    assert page.get_by_text("Stopped; what was trained is kept").count()


@pytest.mark.extra
def test_a_run_ends_when_its_page_is_closed(tiny_demo, browser, tmp_path):
    csv = tmp_path / "slow.csv"
    csv.write_bytes(csv_bytes(1000))
    first, second = (browser.new_context().new_page() for _ in range(2))
    for page in (first, second):
        page.set_default_timeout(driving.PATIENCE)
        driving.start_own(page, tiny_demo, csv, most=True)
    second.get_by_text("Someone else is training").first.wait_for()
    first.get_by_test_id("stVegaLiteChart").first.wait_for()
    first.context.close()
    stop = second.get_by_role("button", name="Stop and keep")
    for _ in range(10):
        second.wait_for_timeout(1500)
        driving.press(second, "Start training")
        driving.idle(second)
        if stop.count():
            break
    assert stop.count()
    second.context.close()


def test_a_visitor_and_the_server_leave_no_files(
    tiny_folder, browser, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    file = adapter(tmp_path / "mine.safetensors")
    with server(tmp_path / "log", tiny_folder) as address:
        page = browser.new_context().new_page()
        driving.open_page(page, address, "adapters")
        driving.hand_in(page, file)
        driving.press(page, "Load it")
        page.get_by_text("is in the bank").wait_for()
        (folder,) = temporary.glob("keras_lora-demo-*")
        assert list(folder.glob("guest-*"))
        page.context.close()
        for _ in range(100):
            if not list(folder.glob("guest-*")):
                break
            time.sleep(0.1)
        assert not list(folder.glob("guest-*")) and folder.exists()
    assert not folder.exists()


def test_a_file_of_a_gigabyte_is_refused_at_once(tiny_demo, page, tmp_path):
    csv = tmp_path / "huge.csv"
    with csv.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    driving.open_page(page, tiny_demo, "train")
    driving.choose(page, "Learn from", "Your own CSV")
    driving.hand_in(page, csv)
    page.get_by_text(re.compile(r"8(\.0)?MB or smaller")).wait_for()
    driving.open_page(page, tiny_demo)
    assert driving.verdict(page)


def test_a_malformed_adapter_gets_a_message(tiny_demo, page, tmp_path):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(b"nonsense")
    driving.open_page(page, tiny_demo, "adapters")
    driving.hand_in(page, file)
    driving.press(page, "Load it")
    page.get_by_text("no safetensors file").wait_for()
