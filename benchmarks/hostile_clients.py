"""What a server answers to clients that mean it harm.

A server of the small base with two adapters is attacked from this machine, one
attack after the other: bodies of a gigabyte, 100,000 names, deep JSON, paths,
NULs, slow clients, broken HTTP. After each one it has to answer a plain client
rightly; its memory is read before and after.

    python -m benchmarks.hostile_clients [--json FILE]
"""

import argparse
import json
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.server_parts import Server, inputs, make_adapters
from benchmarks.train_step import machine

NAMES = ["task-0", "task-1"]
GIGABYTE = 1 << 30
PREDICT = "POST /v1/predict HTTP/1.1"


def exchange(
    port: int, parts: Iterator[bytes] | list[bytes], seconds: float = 60
) -> str:
    """Sends bytes; gives the first line of the answer, or how it ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        sent = 0
        try:
            for part in parts:
                link.sendall(part)
                sent += len(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it answered, and closed before the end
        try:
            answer = link.recv(300)
        except ConnectionResetError:
            return f"closed after {sent:,} bytes"
        except TimeoutError:
            return f"no answer within {seconds:g} s"
    line = answer.split(b"\r\n")[0].decode("latin-1")
    return line or f"closed after {sent:,} bytes"


def request(body: bytes, line: str = PREDICT, headers: str = "") -> bytes:
    """One request, whole."""
    head = (
        f"{line}\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode("latin-1") + body


def asked(port: int, body: Any, line: str = PREDICT) -> str:
    """The status that a JSON body gets."""
    return exchange(port, [request(json.dumps(body).encode(), line)])


def stated_gigabyte(port: int) -> str:
    head = f"{PREDICT}\r\nhost: x\r\ncontent-length: {GIGABYTE}\r\n\r\n"
    return exchange(port, [head.encode()])


def gigabyte_in_chunks(port: int) -> str:
    def parts() -> Iterator[bytes]:
        yield (
            f"{PREDICT}\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        ).encode()
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        for _ in range(GIGABYTE >> 20):
            yield chunk
        yield b"0\r\n\r\n"

    return exchange(port, parts())


def many_names(port: int) -> str:
    row = inputs()[0].tolist()
    names = [f"n{number}" for number in range(100_000)]
    return asked(port, {"model": names, "inputs": [row]})


def names_one_by_one(port: int) -> str:
    """100,000 names that nobody knows, on one connection."""
    found: dict[str, int] = {}
    row = inputs()[0].tolist()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        for number in range(100_000):
            sent = {"model": f"n{number}", "inputs": [row]}
            link.sendall(request(json.dumps(sent).encode()))
            answer = read_answer(link)
            found[answer] = found.get(answer, 0) + 1
    return ", ".join(f"{count:,} x {line}" for line, count in found.items())


def read_answer(link: socket.socket) -> str:
    """The status line of one answer, all of which is read."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = link.recv(65536)
        if not more:
            return "closed"
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = next(
        int(line.split(b":")[1])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length")
    )
    while len(body) < size:
        body += link.recv(65536)
    return head.split(b"\r\n")[0].decode("latin-1")


def deep_json(port: int) -> str:
    depth = 1_000_000
    body = b'{"model": "task-0", "inputs": ' + b"[" * depth + b"]" * depth
    return exchange(port, [request(body + b"}")])


def deep_objects(port: int) -> str:
    body = b'{"a":' * 400_000 + b"1" + b"}" * 400_000
    return exchange(port, [request(body)])


def slow_heads(port: int) -> str:
    """200 connections that send a byte of a header every second."""
    return slowly(port, f"{PREDICT}\r\nhost: x\r\nx-a: ".encode())


def slow_bodies(port: int) -> str:
    """200 connections that send a byte of a body every second."""
    head = f"{PREDICT}\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    return slowly(port, head.encode())


def slowly(port: int, start: bytes, count: int = 200) -> str:
    links = [
        socket.create_connection(("127.0.0.1", port)) for _ in range(count)
    ]
    for link in links:
        link.sendall(start)
    began, open_still = time.monotonic(), set(links)
    while open_still and time.monotonic() - began < 45:
        for link in list(open_still):
            try:
                link.sendall(b"a")
                link.setblocking(False)
                try:
                    link.recv(4096)  # an answer, or the end
                    open_still.discard(link)
                except BlockingIOError:
                    link.setblocking(True)
            except OSError:
                open_still.discard(link)
        time.sleep(1)
    lasted = time.monotonic() - began
    for link in links:
        link.close()
    ended = count - len(open_still)
    return f"{ended} of {count} were ended within {lasted:.0f} s"


def many_connections(port: int) -> str:
    """2,000 connections that say nothing."""
    links = []
    try:
        for _ in range(2000):
            links.append(socket.create_connection(("127.0.0.1", port), 5))
        time.sleep(3)
        return f"{len(links):,} connected; " + asked(
            port, {"model": "task-0", "inputs": [inputs()[0].tolist()]}
        )
    finally:
        for link in links:
            link.close()


def cut_off(port: int) -> str:
    """500 clients that leave before they are answered."""
    body = request(
        json.dumps(
            {"model": "task-0", "inputs": [inputs()[0].tolist()]}
        ).encode()
    )
    for _ in range(500):
        with socket.create_connection(("127.0.0.1", port)) as link:
            link.sendall(body)
    return "all left"


def body(value: Any) -> Callable[[int], str]:
    return lambda port: asked(port, value)


def raw(*parts: bytes) -> Callable[[int], str]:
    return lambda port: exchange(port, list(parts), 20)


def attacks() -> dict[str, Callable[[int], str]]:
    """What is tried, by its name."""
    row = inputs()[0].tolist()

    def rows(value: Any, model: Any = "task-0") -> Callable[[int], str]:
        return body({"model": model, "inputs": value})

    return {
        "1 GB by its length": stated_gigabyte,
        "1 GB in chunks": gigabyte_in_chunks,
        "100,000 names for one row": many_names,
        "100,000 unknown names": names_one_by_one,
        "arrays 1,000,000 deep": deep_json,
        "objects 400,000 deep": deep_objects,
        "a name ../../etc/passwd": rows([row], "../../etc/passwd"),
        "a name with a NUL": rows([row], "task-0\x00"),
        "a name of 1,000,000 letters": rows([row], "a" * 1_000_000),
        "a name of right-to-left marks": rows([row], "\u202etask-0"),
        "/v1/models/../../etc/passwd": raw(
            request(b"", "GET /v1/models/..%2f..%2fetc%2fpasswd HTTP/1.1")
        ),
        "a load of ../x": lambda port: asked(
            port, {"lora_name": "../x"}, "POST /v1/load_lora_adapter HTTP/1.1"
        ),
        "20,000 rows": rows([row] * 20_000),
        "one long text among 500,000 empty ones": rows(
            [["a" * 10_000] + [""] * 500_000]
        ),
        "1,000,000 wrong names": rows([row], [1] * 1_000_000),
        "100,000 unknown fields": body(
            {f"f{number}": 1 for number in range(100_000)}
        ),
        "rows of other lengths": rows([row, row[:3]]),
        "texts where arrays belong": rows(["a text"]),
        "an integer of 4,000 digits": raw(
            request(b'{"model": "task-0", "inputs": [[' + b"9" * 4000 + b"]]}")
        ),
        "an integer of 2**40": rows([[2**40] * len(row)]),
        "tokens that are out of the table": rows([[10**6] * len(row)]),
        "negative tokens": rows([[-5] * len(row)]),
        "NaN and Infinity": raw(
            request(b'{"model": "task-0", "inputs": [[NaN, Infinity]]}')
        ),
        "bytes that are no UTF-8": raw(request(b'{"model": "\xff\xfe"}')),
        "no JSON": raw(request(b"model=task-0")),
        "an empty body": raw(request(b"")),
        "a header of 1 MB": raw(
            request(b"{}", headers="x-a: " + "a" * 1_000_000 + "\r\n")
        ),
        "100,000 headers": raw(request(b"{}", headers="x-a: b\r\n" * 100_000)),
        "two lengths": raw(request(b"{}", headers="content-length: 100\r\n")),
        "a negative length": raw(
            f"{PREDICT}\r\nhost: x\r\ncontent-length: -1\r\n\r\n".encode()
        ),
        "no HTTP": raw(b"\x16\x03\x01" + b"\x00" * 500),
        "slow headers": slow_heads,
        "slow bodies": slow_bodies,
        "2,000 silent connections": many_connections,
        "500 that leave at once": cut_off,
    }


def is_right(port: int, answers: np.ndarray) -> bool:
    """Whether a plain client is answered rightly; it waits if told to."""
    sent = {"model": "task-1", "inputs": [inputs()[3].tolist()]}
    for _ in range(10):
        data = b""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
            link.sendall(
                request(
                    json.dumps(sent).encode(), headers="connection: close\r\n"
                )
            )
            while part := link.recv(65536):
                data += part
        status = data.split(b"\r\n")[0]
        if b" 429 " not in status and b" 503 " not in status:
            break
        time.sleep(1)
    if b" 200 " not in status:
        return False
    found = json.loads(data.partition(b"\r\n\r\n")[2])
    outputs = np.array(found["data"][0]["outputs"])
    return bool(np.abs(outputs - answers[1, 3]).max() < 1e-3)


def main() -> None:
    """Attacks, prints a line for each, and writes them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "adapters"
        answers = make_adapters(folder, NAMES)
        with Server(folder, "--rank", "8", log=Path(work) / "log") as server:
            assert is_right(server.port, answers)
            first = server.megabytes
            for name, attack in attacks().items():
                start, peak = time.perf_counter(), Peak(server)
                got = attack(server.port)
                row = {
                    "attack": name,
                    "got": got,
                    "seconds": time.perf_counter() - start,
                    "peak_mb": peak.stop() - first,
                    "right_after": is_right(server.port, answers),
                }
                found.append(row)
                print(
                    f"{name}: {got}; {row['seconds']:.1f} s, "
                    f"{row['peak_mb']:+.0f} MB, then "
                    f"{'right' if row['right_after'] else 'WRONG'}",
                    flush=True,
                )
            grown = server.megabytes - first
            log = (Path(work) / "log").stat().st_size
    print(f"memory at the end: {grown:+.0f} MB; log of {log:,} bytes")
    result = {
        "machine": machine(),
        "attacks": found,
        "grown_mb": grown,
        "log_bytes": log,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


class Peak:
    """The most memory that a server held until `stop`, by looks at it."""

    def __init__(self, server: Server) -> None:
        self._server, self._most = server, server.megabytes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            self._most = max(self._most, self._server.megabytes)

    def stop(self) -> float:
        """Megabytes."""
        self._ended.set()
        self._thread.join()
        return self._most


if __name__ == "__main__":
    main()
