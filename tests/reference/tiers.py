"""Which cases of a table run at every commit: the rest, that differs from them in little, is slow."""

import pytest


def slow_but(quick, names):
    """`names` as parameters, of which those not in `quick` are marked slow."""
    missing = set(quick) - set(names)
    if missing:
        raise ValueError(f"`quick` must be among {list(names)}. Received: {sorted(missing)}")
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def slow_but_one_a_row(rows, columns):
    """All pairs of `rows` and `columns` as parameters: slow but for one a row, with the columns in turn."""
    columns = list(columns)
    return [
        pytest.param(row, column, marks=() if place == number % len(columns) else pytest.mark.slow)
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]
