"""The figures, as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from keras_lora.serve.metrics import Metrics
from tests.banks import few_tasks, rows
from tests.serve.served import copy_tasks, engine_on


def slots(metrics):
    """Hits and misses."""
    families = text_string_to_metric_families(metrics.text().decode())
    found = {s.name: s.value for family in families for s in family.samples}
    return [
        found[f"keras_lora_slot_{name}_total"] for name in ("hits", "misses")
    ]


def test_hits_and_misses_count_what_the_slots_were_asked_for(tmp_path):
    """Also by streams, and by a batch that fails: neither figure falls."""
    with engine_on(copy_tasks(tmp_path / "a", *few_tasks())) as engine:
        metrics = Metrics(lambda: engine, ())
        assert slots(metrics) == [0, 0]
        for want in ([0, 1], [1, 1], [2, 1]):
            [future] = engine.predict(rows(1), "t0")
            future.result(60)
            assert slots(metrics) == want
        engine.bank.predict(rows(2), ["t1", "t0"])
        assert slots(metrics) == [3, 2]
