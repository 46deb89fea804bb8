"""The demo's pages through Streamlit's own test driver."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from app.serve import service as services
from tests.app.outside import read

SCRIPT = str(Path(services.__file__).parents[1] / "streamlit_app.py")


def open_page(name="switch", **query):
    app = AppTest.from_file(SCRIPT, default_timeout=300)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if name != "switch":
        app.switch_page(f"app_pages/{name}.py").run()
    return fine(app)


def fine(app):
    assert not app.exception, [e.value for e in app.exception]
    return app


def metrics(app):
    return {read(metric.label): metric.value for metric in app.metric}


def errors(app):
    return " ".join(read(error.value) for error in app.error)


def train_own(app, data, name="mine.csv"):
    fine(app.selectbox(key="source").select("Your own CSV").run())
    app.file_uploader(key="csv").upload(name, data)
    return fine(app.run())


def wait_for_run(app):
    run = app.session_state["run"]
    assert run.done.wait(120)
    return fine(app.run())


def upload(app, data, name="mine.safetensors"):
    app.file_uploader(key="adapter-file").upload(name, data)
    fine(app.run())
    return fine(app.button(key="load").click().run())
