"""A cache of the test's own, and small packages to fetch into it."""

import contextlib
import hashlib
import sys
import zipfile
from pathlib import Path

import keras
import pytest
import streamlit as st

from app.serve import service as services
from app.serve.csv_upload import read_labels, split_upload
from app.serve.guests import Shelf
from app.texts import tasks
from app.texts.packages import Package
from app.views import state
from tests.app.tiny import csv_bytes, tiny_source


class FakeIndex:
    """Makes package files, and hands them out as pip would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.downloads = 0

    def package(self, files: dict[str, bytes], **changes) -> Package:
        archive = self.folder / "fake-1.0.zip"
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, content in files.items():
                zipped.writestr(name, content)
        data = archive.read_bytes()
        settings = {
            "name": "fake",
            "version": "1.0",
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "members": ("fake/*",),
            "checks": {
                name: hashlib.sha256(content).hexdigest()
                for name, content in files.items()
            },
        }
        return Package(**settings | changes)

    def download(self, package, folder, progress) -> Path:
        self.downloads += 1
        copy = folder / "fake-1.0.zip"
        copy.write_bytes((self.folder / "fake-1.0.zip").read_bytes())
        progress(0.5)
        return copy


@contextlib.contextmanager
def main_kept():
    """Gives `__main__` back.

    Streamlit's test driver leaves the app's script there, and a process that
    is started later would run it.
    """
    main = sys.modules["__main__"]
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@pytest.fixture(autouse=True)
def pages_leave_main():
    """Any test here may run a page."""
    with main_kept():
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("KERAS_LORA_CACHE", str(folder))
    return folder


@pytest.fixture
def index(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    return FakeIndex(folder)


@pytest.fixture(scope="session")
def tiny_service(tiny_folder):
    """The demo's service on a small random base, made once."""
    from app.serve.service import Service
    from tests.app.tiny import tiny_source

    return Service.start(tiny_source(tiny_folder))


@pytest.fixture(scope="module")
def tiny_demo(tiny_folder):
    """The app on a small base, with a service of its own.

    The app replaces Keras's `clear_session` once a process.
    """
    real, clear_session = services.REAL, keras.backend.clear_session
    services.REAL = tiny_source(tiny_folder)
    st.cache_resource.clear()
    yield
    services.REAL = real
    keras.backend.clear_session = clear_session
    st.cache_resource.clear()


@pytest.fixture
def own_shelf(monkeypatch):
    """One shelf a test: to Streamlit all test drivers are one session."""
    shelves = []

    def shelf(service):
        if not shelves:
            shelves.append(Shelf(service))
        return shelves[0]

    monkeypatch.setattr(state, "_shelf", shelf)
    yield shelves
    for made in shelves:
        made.close()


@pytest.fixture
def few_texts(monkeypatch):
    """Tasks load a small corpus and need no network."""
    st.cache_data.clear()
    corpus, labels = read_labels(csv_bytes(120))
    splits = split_upload(corpus, labels)
    monkeypatch.setattr(tasks.Task, "load", lambda task, progress=None: splits)
