"""The engine's life behind a server."""

import threading

import pytest

from keras_lora.serve.errors import NotServing
from keras_lora.serve.service import Service
from tests.banks import rows
from tests.serve.served import engine_on, wait_until


def test_a_server_that_ends_while_it_starts_leaves_no_engine_running():
    begun, go = threading.Event(), threading.Event()
    with engine_on() as engine:

        def make(observe):
            begun.set()
            go.wait()
            return engine

        service = Service(make, lambda *_: None, lambda error: None)
        service.start(waits=False)
        begun.wait()
        service.stop(1)
        go.set()
        with pytest.raises(NotServing):
            wait_until(lambda: engine.predict(rows(1)) is None)
        assert service.state == "stopping"
        with pytest.raises(NotServing, match="stopping"):
            service.engine  # noqa: B018


def test_one_that_waits_raises_why_it_was_not_made():
    def make(observe):
        raise ValueError("no such base")

    told = []
    service = Service(make, lambda *_: None, told.append)
    with pytest.raises(ValueError, match="no such base"):
        service.start(waits=True)
    assert service.state == "failed" and len(told) == 1
