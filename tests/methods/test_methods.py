"""Every method in one batch: each row is adapted by its own."""

import keras
import pytest

from tests.bank.test_bank_models import twice
from tests.banks import assert_rows, call, make_task, served
from tests.marks import pairs
from tests.methods import (
    test_bottleneck,
    test_dora,
    test_ia3,
    test_lora,
    test_parallel,
    test_pissa,
)
from tests.methods.contract import ALL, QUICK
from tests.models import KINDS

METHODS = {
    **test_lora.TestLoRA.configs,
    **test_pissa.TestPiSSA.configs,
    **test_dora.TestDoRA.configs,
    **test_ia3.TestIA3.configs,
    **test_bottleneck.TestBottleneck.configs,
    **test_parallel.TestParallel.configs,
}


@pytest.mark.parametrize("name", pairs(QUICK, ALL))
def test_rows_of_a_batch_have_their_own_methods(name, tmp_path):
    kind = KINDS[name]
    base, x = kind.base(), twice(twice(kind.inputs()))
    tasks = {
        method: make_task(
            base,
            tmp_path / method,
            METHODS[method](kind),
            x,
            head=kind.model if name == "flattened" else None,
            seed=number,
            size=0.2,
        )
        for number, method in enumerate(METHODS)
    }
    plain = call(base, x)
    names = [*METHODS, None, *METHODS, *METHODS][: len(first_of(x))]
    with served(base) as bank:
        for method, task in tasks.items():
            bank.load(method, task.path)
        for order in (names, names[::-1]):
            rows = bank.predict(x, adapter=order)
            assert_rows(rows, order, tasks, plain)


def first_of(x):
    return keras.tree.flatten(x)[0]
