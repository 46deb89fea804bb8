"""What a bank's slots may take."""

import pytest

from keras_lora import AdapterBank
from keras_lora.bank import memory
from keras_lora.model import surgery
from tests.banks import (
    few_tasks,
    lora,
    make_task,
    off,
    rows,
    sequential,
    served,
)
from tests.helpers import refused
from tests.methods.contract import Facts


@pytest.fixture
def base():
    return sequential()


def test_a_capacity_that_no_machine_holds_is_refused(base):
    before = Facts(base)
    for settings, *words in (
        ({"capacity": 10**9}, "capacity=1000000000", "1 to 100,000"),
        ({"capacity": 10**5000}, "capacity", "64 bits"),
        ({"capacity": -(10**5000)}, "capacity", "64 bits"),
        ({"rank": 10**5000}, "rank", "64 bits"),
        ({"capacity": 10**5, "rank": 10**5}, "100,001 slots", "bytes"),
    ):
        refused(lambda s=settings: AdapterBank(base, **s), *words)
        before.assert_same(Facts(base))
    AdapterBank(base, 100_000).detach()


def test_an_adapter_whose_slots_find_no_room_leaves_the_bank(
    base, tmp_path, monkeypatch
):
    tasks, x = few_tasks(), rows(8)
    large = make_task(base, tmp_path / "large", lora(5), x)
    with served(base, capacity=2) as bank:
        bank.load("t0", tasks["t0"].path)
        weights = [id(v) for v in base.weights]
        with monkeypatch.context() as patch:
            # 3 slots, 3 layers: ranks 2 and 5 of 6 to 8, 8 to 8 and 8 to 4.
            needed = 4 * 3 * (2 + 5) * (6 + 8 + 8 + 8 + 8 + 4)
            patch.setattr(memory, "host_memory", lambda: needed - 1)
            refused(
                lambda: bank.load("large", large.path),
                f"3 slots would take {needed:,} bytes",
                f"{needed - 1:,}",
            )
            assert bank.names == ["t0"]
            assert [id(v) for v in base.weights] == weights
            got = bank.predict(x, adapter="t0")
            assert off(got, tasks["t0"].outputs) <= 1e-5
            patch.setattr(memory, "host_memory", lambda: needed)
            bank.load("large", large.path)
        assert off(bank.predict(x, adapter="large"), large.outputs) <= 1e-5


class ResourceExhaustedError(Exception):
    """TensorFlow's, by name."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["python", "tensorflow", "jax", "torch"],
)
def test_no_memory_for_slots_is_said_in_words(base, monkeypatch, error):
    tasks, x = few_tasks(), rows(8)
    with served(base, capacity=2) as bank:
        bank.load("t0", tasks["t0"].path)
        weights = [id(v) for v in base.weights]

        def fails(*args, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(surgery, "add_weight", fails)
            refused(lambda: bank.load("head", tasks["head"].path), "no memory")
        assert bank.names == ["t0"]
        assert [id(v) for v in base.weights] == weights
        got = bank.predict(x, adapter="t0")
        assert off(got, tasks["t0"].outputs) <= 1e-5
