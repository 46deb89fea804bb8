"""Clients that send a request one byte at a time."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from keras_lora.serve.punctual import Punctual
from tests.serve.served import wait_until

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Quick(Punctual):
    seconds = 0.3


async def app(scope, receive, send):
    headers = [(b"content-length", b"2")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    config = uvicorn.Config(
        app, port=0, http=Quick, lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(10)
        yield connection


def answered(connection):
    """Whether an answer comes, in however many parts."""
    data = b""
    while not data.endswith(b"ok"):
        part = connection.recv(1000)
        if not part:
            return False
        data += part
    return True


def closed(connection, byte):
    """Whether a connection is closed that one more byte is sent to."""
    connection.settimeout(0.02)
    try:
        connection.sendall(byte)
        return connection.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_head_that_never_ends_closes_the_connection(port):
    with connected(port) as slow:
        head = iter(REQUEST[:-1] + b"x" * 1000)
        wait_until(lambda: closed(slow, bytes([next(head)])))


@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_a_body_that_goes_on_after_its_answer_closes_it(port, method):
    head = b" / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
    with connected(port) as slow:
        slow.sendall(method + head)
        assert answered(slow)
        wait_until(lambda: closed(slow, b"x"))


def test_a_client_that_asks_and_asks_keeps_its_connection(port):
    with connected(port) as quick:
        end = time.monotonic() + 5 * Quick.seconds
        while time.monotonic() < end:
            quick.sendall(REQUEST)
            assert answered(quick)
