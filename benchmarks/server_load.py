"""Clients in a closed loop, each answer compared with a solo answer."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from benchmarks.server_parts import inputs

CLOSE = 1e-3
"""How far rounding in batches of other sizes may move an answer."""


@dataclass
class Load:
    """What a load came to.

    Attributes:
        seconds: Of each answered request, in the order of the answers.
        statuses: How often each HTTP status came; 0 where the connection broke.
        wrong: Answers that are no adapter's.
        lasted: Seconds that it went on.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lasted: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Requests a second, latencies in milliseconds, counts."""
        latencies = 1e3 * np.array(self.seconds or [np.nan])
        return {
            "requests_a_second": len(self.seconds) / self.lasted,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "statuses": {str(k): v for k, v in sorted(self.statuses.items())},
            "wrong": len(self.wrong),
        }


Truths = Callable[[str, float], list[np.ndarray]]
"""The answers, (rows, classes) each, that a name may give to what was asked at
some time; none where it may be unknown."""


def run(
    url: str,
    names: list[str],
    truths: Truths,
    *,
    clients: int,
    seconds: float,
    meanwhile: Callable[[], None] | None = None,
) -> Load:
    """Asks for `seconds`, while something else is done in a thread."""
    return asyncio.run(_run(url, names, truths, clients, seconds, meanwhile))


async def _run(
    url: str,
    names: list[str],
    truths: Truths,
    clients: int,
    seconds: float,
    meanwhile: Callable[[], None] | None,
) -> Load:
    load, rows = Load(), inputs().tolist()
    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout
    ) as session:
        start = time.monotonic()
        end = start + seconds

        async def client(number: int) -> None:
            rng = random.Random(number)
            while time.monotonic() < end:
                name, row = rng.choice(names), rng.randrange(len(rows))
                await ask(session, url, name, row, rows, truths, load)

        work = [client(number) for number in range(clients)]
        if meanwhile is not None:
            work.append(asyncio.to_thread(meanwhile))
        await asyncio.gather(*work)
        load.lasted = time.monotonic() - start
    return load


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    name: str,
    row: int,
    rows: list[Any],
    truths: Truths,
    load: Load,
) -> None:
    """One request; a client that is turned away waits as it is told."""
    asked = time.monotonic()
    body = {"model": name, "inputs": [rows[row]]}
    try:
        async with session.post(url + "/v1/predict", json=body) as response:
            status = response.status
            found = await response.json() if status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        load.statuses[0] += 1
        await asyncio.sleep(0.2)
        return
    load.statuses[status] += 1
    if status != 200:
        await asyncio.sleep(0.2 if status != 429 else 1.0)
        return
    load.seconds.append(time.monotonic() - asked)
    outputs = np.array(found["data"][0]["outputs"])
    near = [
        float(np.abs(truth[row] - outputs).max())
        for truth in truths(name, asked)
    ]
    if not near or min(near) > CLOSE:
        load.wrong.append(f"{name}, row {row}: off by {near}")
