"""Two visitors of the demo at once, one of them training.

Starts the real demo, opens two browser sessions on different tasks and notes
what each example is answered while nothing else runs. Then, for a minute, a
third page of the second visitor trains an adapter while both go on asking;
every answer is compared with the one noted before.

    python -m benchmarks.two_sessions [--seconds 60] [--json FILE]

Needs Chromium: `CHROMIUM`, or `chromium` on the path.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from app.serve.served import title_of
from app.texts.tasks import get_task
from tests.browser import driving
from tests.browser.conftest import FLAGS, server

VISITORS = ("movie-sentiment", "tweet-sentiment")
ANSWERED = """(text) => {
  const area = document.querySelector('textarea');
  const app = document.querySelector('[data-testid="stApp"]');
  return area !== null && area.value === text
    && app.getAttribute('data-test-script-state') === 'notRunning';
}"""


def ask(page: Page, text: str) -> tuple[str, float, float]:
    """What is shown for an example; ms until it is; ms the app tells."""
    start = time.perf_counter()
    page.get_by_test_id("stButtonGroup").nth(1).get_by_text(
        text, exact=True
    ).click()
    page.wait_for_function(ANSWERED, arg=text, polling=20)
    shown = driving.verdict(page)
    seconds = time.perf_counter() - start
    told = driving.metric(page, "Prediction").split()[0]
    return shown, 1e3 * seconds, float(told)


class Visitor:
    """One browser session, in a thread of its own.

    Args:
        address: the demo's.
        task: what this visitor asks.
        trains: a CSV to train on meanwhile, or None.
        chromium: the browser.
    """

    def __init__(
        self, address: str, task: str, trains: Path | None, chromium: str
    ) -> None:
        self.address, self.task, self.trains = address, task, trains
        self.chromium = chromium
        self.answers: list[tuple[bool, float, float]] = []
        self.noted: dict[str, str] = {}
        self.training: str | None = None
        self.error: str | None = None

    def run(self, together: threading.Barrier, seconds: float) -> None:
        """Notes the right answers, then asks for so long."""
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(
                    executable_path=self.chromium, args=FLAGS
                )
                self._visit(browser.new_context(), together, seconds)
                browser.close()
        except Exception as error:
            self.error = repr(error)
            together.abort()

    def _visit(
        self, context: Any, together: threading.Barrier, seconds: float
    ) -> None:
        page = context.new_page()
        page.set_default_timeout(120_000)
        title = title_of(self.task).replace(" ", "+")
        driving.open_page(page, self.address, f"?task={title}")
        examples = get_task(self.task).examples
        for text in (*examples, *examples):
            self.noted[text] = ask(page, text)[0]
        together.wait()
        second = None
        if self.trains is not None:
            second = context.new_page()
            second.set_default_timeout(120_000)
            driving.start_own(second, self.address, self.trains, most=True)
        together.wait()
        end = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < end:
            text = examples[number % len(examples)]
            shown, took, told = ask(page, text)
            self.answers.append((shown == self.noted[text], took, told))
            number += 1
            page.wait_for_timeout(200)
        if second is not None:
            going = second.get_by_role("button", name="Stop and keep")
            self.training = "going on" if going.count() else "done"
            going.or_(second.get_by_role("button", name="Add to")).wait_for()

    def figures(self) -> dict[str, Any]:
        """Counts, and times in milliseconds."""
        took = [answer[1] for answer in self.answers]
        told = [answer[2] for answer in self.answers]
        return {
            "task": self.task,
            "trains": self.trains is not None,
            "answers": len(self.answers),
            "wrong": sum(not right for right, _, _ in self.answers),
            "shown after (median, 95 %)": _spread(took),
            "prediction, told by the app (median, 95 %)": _spread(told),
            "training at the end": self.training,
        }


def _spread(values: list[float]) -> list[float]:
    return [round(float(np.percentile(values, q)), 1) for q in (50, 95)]


def texts_to_train_on(folder: Path) -> Path:
    """A CSV of a thousand product sentences, as a visitor would bring."""
    task = get_task("product-sentiment")
    train = task.load().train
    path = folder / "products.csv"
    rows = [
        '"' + text.replace('"', '""') + '",' + task.labels[label]
        for text, label in zip(
            train.texts[:1200], train.labels[:1200], strict=True
        )
    ]
    path.write_text("\n".join(["text,label", *rows]), "utf-8")
    return path


def measure(seconds: float, chromium: str) -> dict[str, Any]:
    """Runs both visitors and gathers their figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csv = texts_to_train_on(folder)
        with server(folder / "server.log") as address:
            together = threading.Barrier(len(VISITORS))
            visitors = [
                Visitor(address, task, csv if number else None, chromium)
                for number, task in enumerate(VISITORS)
            ]
            threads = [
                threading.Thread(target=v.run, args=(together, seconds))
                for v in visitors
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    errors = [visitor.error for visitor in visitors if visitor.error]
    if errors:
        raise SystemExit("\n".join(errors))
    return {
        "seconds": seconds,
        "cores": os.cpu_count(),
        "visitors": [visitor.figures() for visitor in visitors],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium found: install it, or set CHROMIUM")
    text = json.dumps(measure(options.seconds, chromium), indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
