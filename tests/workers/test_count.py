"""The number of workers: the formula of the original design, and at most one per core."""

from __future__ import annotations

import pytest

from esper.workers.count import workers_needed


@pytest.mark.parametrize(
    ("parameters", "levels", "seconds", "workers"),
    [
        (1, 1, 300.0, 1),
        (150_000_000, 1, 300.0, 1),
        (150_000_001, 1, 300.0, 2),
        (1_100_000_000, 1, 300.0, 8),
        (1_100_000_000, 3, 300.0, 22),
        (10**12, 3, 300.0, 64),
    ],
)
def test_workers_grow_with_parameters_and_levels_up_to_the_cores(
    parameters: int, levels: int, seconds: float, workers: int
) -> None:
    assert workers_needed(parameters, levels, seconds, cores=64) == workers


def test_this_machine_is_the_limit_where_no_other_is_named() -> None:
    assert workers_needed(10**15, 3, 1.0) >= 1
    assert workers_needed(10**15, 3, 1.0) < 10**6
