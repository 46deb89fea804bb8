"""What the demo tells Streamlit."""

import tomllib
from pathlib import Path

from app.serve.limits import MAX_UPLOAD_MEGABYTES

CONFIG = Path(__file__).parents[2] / ".streamlit" / "config.toml"


def options(section):
    return tomllib.loads(CONFIG.read_text())[section]


def test_file_dialogs_take_what_the_limits_say():
    assert options("server")["maxUploadSize"] == MAX_UPLOAD_MEGABYTES


def test_a_watched_run_is_not_held_up_by_collecting_garbage():
    # A page that watches a run ends a script each second. Walking all
    # objects each time made a run of a minute take eight.
    assert options("runner")["postScriptGC"] is False
