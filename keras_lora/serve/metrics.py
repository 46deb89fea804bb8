"""Figures for Prometheus."""

from collections import Counter as Counted
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from keras_lora.serve.engine import Engine

ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PREFIX = "keras_lora_"
TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts requests and batches, and looks at the engine when asked.

    Args:
        engine: Gives the engine, or None while there is none.
        routes: Paths that are counted by themselves; all others together.
    """

    def __init__(
        self, engine: Callable[[], Engine | None], routes: tuple[str, ...]
    ) -> None:
        self._engine, self._routes = engine, routes
        self._registry = CollectorRegistry()
        self._requests = Counter(
            PREFIX + "requests",
            "Requests answered",
            ("route", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            PREFIX + "request_seconds",
            "Seconds from a request to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._rows = Histogram(
            PREFIX + "batch_rows",
            "Rows in a batch",
            ("kind",),
            buckets=ROWS,
            registry=self._registry,
        )
        self._batches = Histogram(
            PREFIX + "batch_seconds",
            "Seconds that a batch ran",
            ("kind",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request."""
        route = path if path in self._routes else "other"
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, kind: str, rows: int, seconds: float) -> None:
        """Counts a batch."""
        self._rows.labels(kind).observe(rows)
        self._batches.labels(kind).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """What the engine knows at this moment."""
        engine = self._engine()
        if engine is None:
            return
        waiting = GaugeMetricFamily(
            PREFIX + "waiting_rows", "Rows in the queue", labels=("kind",)
        )
        for kind, count in engine.waiting.items():
            waiting.add_metric((kind,), count)
        yield waiting
        yield GaugeMetricFamily(
            PREFIX + "streams", "Streams that run", engine.streams.running
        )
        yield CounterMetricFamily(
            PREFIX + "slot_hits",
            "Adapters of batches that were in a slot",
            engine.bank.cache_hits,
        )
        yield CounterMetricFamily(
            PREFIX + "slot_misses",
            "Adapters that were put into a slot",
            engine.bank.cache_misses,
        )
        adapters = GaugeMetricFamily(
            PREFIX + "adapters", "Adapters by how it stands", labels=("state",)
        )
        if engine.folder is not None:
            states = [s.state for s in engine.folder.status.values()]
            for state in ("served", "refused", "waiting", "unloaded"):
                adapters.add_metric((state,), Counted(states)[state])
        yield adapters
