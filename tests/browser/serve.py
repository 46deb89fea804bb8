"""Runs the demo's server, on the real base or on a small random one.

    python -m tests.browser.serve PORT [FOLDER]

FOLDER holds the adapters of the small base; without it the base is real.
"""

import sys
import time
from pathlib import Path

from streamlit.web import cli

from app.serve import service, trainer

SCRIPT = Path(service.__file__).parents[1] / "streamlit_app.py"


class Watch(trainer.Watch):
    """Makes a run on the file "slow.csv" last for minutes."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        if self._run.job.title == "slow":
            time.sleep(0.2)


if __name__ == "__main__":
    port, *folder = sys.argv[1:]
    if folder:
        from tests.app.tiny import tiny_source

        service.REAL = tiny_source(Path(folder[0]))
        trainer.AWAY_SECONDS, trainer.Watch = 1.0, Watch
    sys.argv = [
        "streamlit",
        "run",
        str(SCRIPT),
        f"--server.port={port}",
        "--server.headless=true",
        "--server.address=127.0.0.1",
        "--server.fileWatcherType=none",
    ]
    cli.main()
