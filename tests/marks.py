"""Which cases of a test every run has, and which the slow tests add."""

import pytest


def pairs(quick, others=()):
    """Values for `parametrize`: the quick ones, and the others marked extra.

    CI runs the others last, if there is time.

    Args:
        quick: Tuples of values, or single values.
        others: All there are; those among the quick ones stay quick.
    """
    quick = list(quick)
    return quick + [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=pytest.mark.extra,
        )
        for case in others
        if case not in quick
    ]
