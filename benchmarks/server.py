"""A server of 16 adapters under load: `keras-lora serve`, and on Ray Serve.

A small encoder answers rows of 32 tokens, each with the head of the adapter it
names. Clients on the same machine ask in a closed loop, a row a request; each
answer is compared with that of the adapter alone. Cases take turns in rounds.

    python -m benchmarks.server [speed crowd churn end ray] [--json FILE]

speed: mixed names, one name, and batches of one row. crowd: 500 clients at
once. churn: adapters are added, replaced and removed meanwhile, one broken
and one of PEFT. end: SIGTERM under load. ray: 1 and 2 replicas, churn, and a
replica that is killed.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import keras_lora
from benchmarks import server_parts
from benchmarks.server_load import Truths, run
from benchmarks.server_parts import Server, make_adapters
from benchmarks.train_step import machine, spread

NAMES = [f"task-{number}" for number in range(16)]
CHANGES = 50


def fixed(answers: np.ndarray) -> Truths:
    """What adapters that do not change may answer."""
    by_name = dict(zip(NAMES, answers, strict=True))
    return lambda name, asked: [by_name[name]]


def options_of(options: argparse.Namespace, batch: int) -> list[str]:
    """The server's options."""
    return ["--max-batch", str(batch), "--capacity", "16", "--rank", "8"]


def warm(url: str, truths: Truths) -> None:
    """Has every size of a batch compiled."""
    for clients in (1, 2, 4, 8, 16, 32):
        run(url, NAMES, truths, clients=clients, seconds=1)


def speed(options: argparse.Namespace, folder: Path, log: Path) -> Any:
    """Mixed, one adapter and batches of one row, in turns."""
    truths = fixed(make_adapters(folder, NAMES))
    with (
        Server(folder, *options_of(options, 32), log=log) as gathers,
        Server(folder, *options_of(options, 1), log=log) as single,
    ):
        warm(gathers.url, truths)
        run(single.url, NAMES, truths, clients=8, seconds=2)
        cases = {
            "16 adapters, mixed": (gathers.url, NAMES),
            "one adapter": (gathers.url, NAMES[:1]),
            "mixed, batches of one": (single.url, NAMES),
        }
        rounds: dict[str, list[Any]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, (url, names) in cases.items():
                load = run(
                    url,
                    names,
                    truths,
                    clients=32,
                    seconds=options.seconds / options.rounds,
                )
                rounds[case].append(load.figures())
        start, held = gathers.seconds_to_start, gathers.megabytes
    mixed = per_second(rounds["16 adapters, mixed"])
    return {
        "cases": {case: joined(found) for case, found in rounds.items()},
        "mixed_over_one": spread(mixed / per_second(rounds["one adapter"])),
        "mixed_over_batch_1": spread(
            mixed / per_second(rounds["mixed, batches of one"])
        ),
        "seconds_to_start": start,
        "megabytes": held,
    }


def per_second(found: list[Any]) -> np.ndarray:
    """Requests a second, by round."""
    return np.array([one["requests_a_second"] for one in found])


def joined(found: list[Any]) -> dict[str, Any]:
    """The rounds of one case."""
    statuses: dict[str, int] = {}
    for one in found:
        for status, count in one["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return {
        **{
            key: spread([one[key] for one in found])
            for key in ("requests_a_second", "p50_ms", "p99_ms")
        },
        "statuses": statuses,
        "wrong": sum(one["wrong"] for one in found),
    }


def crowd(options: argparse.Namespace, folder: Path, log: Path) -> Any:
    """500 clients at once, and what it was like before and after."""
    truths = fixed(make_adapters(folder, NAMES))
    with Server(folder, *options_of(options, 32), log=log) as server:
        warm(server.url, truths)
        found = {}
        for what, clients, seconds in (
            ("before", 32, 10),
            ("500 clients", 500, options.seconds),
            ("after", 32, 10),
        ):
            load = run(
                server.url, NAMES, truths, clients=clients, seconds=seconds
            )
            found[what] = {**load.figures(), "megabytes": server.megabytes}
    return found


class Churn:
    """Adds, replaces and removes files, and knows what is right when.

    A change counts from when it begins; what was right before stays so for
    as long as the server may take to see it.
    """

    SLACK = 5.0

    def __init__(self, folder: Path, spare: Path) -> None:
        self.folder, self.spare = folder, spare
        self.fresh = [f"new-{number}" for number in range(8)]
        first = make_adapters(folder, NAMES)
        second = make_adapters(spare, NAMES + self.fresh, seed=9)
        self._first = dict(zip(NAMES, first, strict=True))
        self._second = dict(zip(NAMES + self.fresh, second, strict=True))
        self._lock = threading.Lock()
        self.right: dict[str, list[tuple[float, float, np.ndarray]]] = {
            name: [(0.0, np.inf, value)] for name, value in self._first.items()
        }
        self.changes: list[str] = []

    def truths(self, name: str, asked: float) -> list[np.ndarray]:
        """The answers that a name may give."""
        now = time.monotonic()
        with self._lock:
            return [
                value
                for begun, ended, value in self.right.get(name, [])
                if begun <= now and asked <= ended + self.SLACK
            ]

    def _now_is(self, name: str, value: np.ndarray | None) -> None:
        now = time.monotonic()
        with self._lock:
            past = [
                (begun, min(ended, now), old)
                for begun, ended, old in self.right.get(name, [])
            ]
            if value is not None:
                past.append((now, np.inf, value))
            self.right[name] = past

    def __call__(self, seconds: float) -> None:
        """Makes all changes, spread over so many seconds."""
        rng = random.Random(0)
        for number in range(CHANGES):
            self.change(number, rng)
            time.sleep(seconds / CHANGES)

    def change(self, number: int, rng: random.Random) -> None:
        """One of them."""
        if number == 10:
            (self.folder / "broken.safetensors").write_bytes(b"\x08" * 500)
            self.changes.append("broken")
            return
        if number == 20:
            self.as_peft("peft-one", NAMES[0])
            self.changes.append("peft")
            return
        kind = ("add", "replace", "remove")[number % 3]
        served = [n for n in self.fresh if (self.path(n)).exists()]
        absent = [n for n in self.fresh if n not in served]
        if kind == "add" and absent:
            self.put(rng.choice(absent))
        elif kind == "remove" and served:
            name = rng.choice(served)
            self._now_is(name, None)
            self.path(name).unlink()
        else:
            kind = "replace"
            self.put(rng.choice(NAMES))
        self.changes.append(kind)

    def path(self, name: str) -> Path:
        """An adapter's file in the folder."""
        return self.folder / f"{name}.safetensors"

    def put(self, name: str) -> None:
        """A file in one move, of the values that are not there now."""
        was = self.right.get(name, [])
        second = self._second[name]
        if name in NAMES and was and was[-1][2] is second:
            source, value = self.spare / f"{name}.first", self._first[name]
        else:
            source, value = self.spare / f"{name}.safetensors", second
        part = self.folder / f".{name}.part"
        part.write_bytes(source.read_bytes())
        self._now_is(name, value)
        part.replace(self.path(name))

    def keep_first(self) -> None:
        """Copies of what is served at first, to go back to."""
        for name in NAMES:
            (self.spare / f"{name}.first").write_bytes(
                self.path(name).read_bytes()
            )

    def as_peft(self, name: str, like: str) -> None:
        """A PEFT folder, from an adapter that was loaded alone."""
        plain = server_parts.base()
        path = self.spare / f"{like}.safetensors"
        keras_lora.load_adapter(plain, path, head=False)
        part = self.folder / f".{name}"
        keras_lora.save_peft(plain, part)
        part.rename(self.folder / name)


def churn(
    options: argparse.Namespace, folder: Path, log: Path, *more: str
) -> Any:
    """The folder changes under load."""
    changes = Churn(folder, folder.with_name("spare"))
    changes.keep_first()
    extra = [*options_of(options, 32), *more]
    with Server(folder, *extra, log=log) as server:
        warm(server.url, changes.truths)
        load = run(
            server.url,
            NAMES + changes.fresh,
            changes.truths,
            clients=32,
            seconds=options.seconds,
            meanwhile=lambda: changes(0.9 * options.seconds),
        )
        time.sleep(Churn.SLACK)
        listed = models_of(server.url)
    return {
        **load.figures(),
        "wrong_answers": load.wrong[:5],
        "changes": {
            kind: changes.changes.count(kind)
            for kind in sorted(set(changes.changes))
        },
        "served": sorted(listed["served"]),
        "on_disk": sorted(
            path.name.removesuffix(".safetensors")
            for path in folder.iterdir()
            if not path.name.startswith(".")
        ),
        "not_served": listed["not_served"],
    }


def models_of(url: str) -> dict[str, Any]:
    """What a server says that it serves."""
    import urllib.request

    with urllib.request.urlopen(url + "/v1/models", timeout=10) as answer:
        found = json.load(answer)
    return {
        "served": [m["id"] for m in found["data"] if m["parent"]],
        "not_served": found["not_served"],
    }


def end(options: argparse.Namespace, folder: Path, log: Path) -> Any:
    """SIGTERM under load: what it took is answered."""
    truths = fixed(make_adapters(folder, NAMES))
    with Server(folder, *options_of(options, 32), log=log) as server:
        warm(server.url, truths)

        def ends() -> None:
            time.sleep(3)
            server.terminate()

        load = run(
            server.url, NAMES, truths, clients=32, seconds=6, meanwhile=ends
        )
        code = server.process.wait(60)
    return {**load.figures(), "exit_code": code}


def ray(options: argparse.Namespace, folder: Path, log: Path) -> Any:
    """The same on Ray Serve."""
    found: dict[str, Any] = {}
    truths = fixed(make_adapters(folder, NAMES))
    for replicas in (1, 2):
        more = ["--ray", "--replicas", str(replicas)]
        with Server(folder, *options_of(options, 32), *more, log=log) as server:
            warm(server.url, truths)
            rounds: dict[str, list[Any]] = {"mixed": [], "one adapter": []}
            for _ in range(options.rounds):
                for case, names in (
                    ("mixed", NAMES),
                    ("one adapter", NAMES[:1]),
                ):
                    load = run(
                        server.url,
                        names,
                        truths,
                        clients=32,
                        seconds=options.seconds / options.rounds,
                    )
                    rounds[case].append(load.figures())
            found[f"{replicas} replicas"] = {
                **{case: joined(row) for case, row in rounds.items()},
                "seconds_to_start": server.seconds_to_start,
                "megabytes": server.megabytes,
            }
            if replicas == 2:
                found["a replica is killed"] = killed(server, truths)
    found["churn"] = churn(
        options,
        folder.with_name("ray-churn"),
        log,
        "--ray",
        "--replicas",
        "2",
    )
    return found


def killed(server: Server, truths: Truths) -> Any:
    """`kill -9` of one of two replicas under load."""

    def kills() -> None:
        time.sleep(3)
        for process in psutil.process_iter(["name", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if "ray::ServeReplica" in line:
                os.kill(process.pid, signal.SIGKILL)
                return

    load = run(
        server.url, NAMES, truths, clients=32, seconds=30, meanwhile=kills
    )
    return load.figures()


CASES: dict[str, Callable[[argparse.Namespace, Path, Path], Any]] = {
    "speed": speed,
    "crowd": crowd,
    "churn": churn,
    "end": end,
    "ray": ray,
}


def main() -> None:
    """Measures what the command line names, and adds it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(CASES)}")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the result here")
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.json and options.json.exists():
        result = json.loads(options.json.read_text())
    result["machine"] = machine()
    for case in options.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.txt"
            found = CASES[case](options, Path(folder) / "adapters", log)
        result[case] = {"settings": {"seconds": options.seconds}, **found}
        print(json.dumps({case: result[case]}, indent=1), flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
