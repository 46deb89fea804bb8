"""How a person's hands move over the demo's pages."""

IDLE = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  return app !== null
    && app.getAttribute('data-test-script-state') === 'notRunning'
    && document.querySelector('[data-testid="stSkeleton"]') === null
    && document.querySelector('[data-stale="true"]') === null;
}"""

HEIGHT = """() =>
  document.querySelector('[data-testid="stMain"]').scrollHeight
"""

PATIENCE = 300_000
"""Milliseconds after which a page is taken for hung."""

FIRST_START = 480_000
"""The same for the first page, for which the base is loaded."""

SETTLED = 600
"""Milliseconds that a chart takes to be drawn after the page is idle."""


def open_page(page, address, path=""):
    page.goto(f"{address}/{path}")
    page.get_by_role("heading", level=1).wait_for()
    idle(page, FIRST_START)
    # The page starts over when the base has been loaded.
    idle(page, FIRST_START)


def idle(page, patience=PATIENCE):
    """Waits until the page's script has run and everything is drawn."""
    page.wait_for_timeout(250)
    page.wait_for_function(IDLE, timeout=patience)
    page.wait_for_timeout(SETTLED)


def press(page, name):
    page.get_by_role("button", name=name, exact=True).first.click()


def pick_task(page, title):
    page.get_by_test_id("stButtonGroup").first.get_by_text(
        title, exact=True
    ).click()
    idle(page)


def choose(page, label, option):
    """Picks an option of a select box."""
    page.get_by_label(label, exact=False).first.click()
    page.get_by_role("option", name=option).click()
    idle(page)


def metric(page, label):
    """The value of a metric, once it is there."""
    box = page.get_by_test_id("stMetric").filter(has_text=label).first
    return box.get_by_test_id("stMetricValue").inner_text()


def verdict(page):
    """The adapted answer: "positive, 93.4%"."""
    return page.locator(".st-key-adapted h2").inner_text()


def hand_in(page, path):
    page.locator('input[type="file"]').first.set_input_files(str(path))
    idle(page)


def to_the_end(page, label):
    """Moves a slider to its last value."""
    page.get_by_role("slider", name=label).press("End")
    idle(page)


def run_mixed_batch(page, address):
    open_page(page, address, "mixed")
    press(page, "Answer all rows")
    metric(page, "Largest difference")
    idle(page)


def train_own(page, address, csv):
    """Trains on a CSV until the result is shown."""
    start_own(page, address, csv)
    page.get_by_role("button", name="Add to the bank").wait_for(
        timeout=FIRST_START
    )
    idle(page)


def choose_own(page, address, csv):
    """Hands in a CSV to train on."""
    open_page(page, address, "train")
    choose(page, "Learn from", "Your own CSV")
    hand_in(page, csv)


def start_own(page, address, csv, most=False):
    """Starts to train on a CSV, with `most` on all of it and for long."""
    choose_own(page, address, csv)
    if most:
        to_the_end(page, "Epochs")
        to_the_end(page, "Training texts")
    metric(page, "Trainable weights")
    press(page, "Start training")


def whole(page, width):
    """Makes the window as high as the page is, so that a picture has it all."""
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(300)
    height = page.evaluate(HEIGHT)
    page.set_viewport_size({"width": width, "height": min(height + 20, 4000)})
    page.wait_for_timeout(SETTLED)
