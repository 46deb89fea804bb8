"""Clients that send a request's head one byte at a time."""

import socket
import threading
import time

import uvicorn

from keras_lora.serve.punctual import Punctual
from tests.serve.served import wait_until


class Quick(Punctual):
    seconds = 0.3


async def app(scope, receive, send):
    headers = [(b"content-length", b"2")]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": b"ok"})


def test_a_head_that_never_ends_closes_the_connection():
    config = uvicorn.Config(
        app, port=0, http=Quick, lifespan="off", log_level="error"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"

        def closed(connection, byte):
            try:
                connection.sendall(byte)
                return connection.recv(100) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        with socket.create_connection(("127.0.0.1", port)) as slow:
            slow.settimeout(0.02)
            head = iter(request[:-1] + b"x" * 1000)
            wait_until(lambda: closed(slow, bytes([next(head)])))
        with socket.create_connection(("127.0.0.1", port)) as quick:
            quick.settimeout(10)
            for _ in range(8):  # a client that asks now and then
                quick.sendall(request)
                assert quick.recv(1000).endswith(b"ok")
                time.sleep(0.1)
    finally:
        server.should_exit = True
        thread.join()
