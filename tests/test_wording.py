"""Numbers in sentences."""

from __future__ import annotations

import pytest

from esper.wording import alike, ranks


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ((0.9688, 0.9297, 0.0391), ["0.9688", "0.9297", "0.0391"]),
        ((1.0, 0.0), ["1.0000", "0.0000"]),
        ((261.24721, 0.5), ["261.2472", "0.5000"]),
        ((0.000254, 0.0002695, -0.0000155), ["0.0002540", "0.0002695", "-0.0000155"]),
        ((0.0,), ["0.0000"]),
        ((float("nan"), 0.001), ["nan", "0.001000"]),
        ((1e-30,), ["0.000000000000"]),
    ],
)
def test_numbers_of_one_kind_have_the_same_decimals(values: tuple[float, ...], texts: list[str]) -> None:
    assert alike(*values) == texts


def test_ranks_are_counted_by_name() -> None:
    assert ranks([1]) == "Rank 1"
    assert ranks([0, 3]) == "Ranks 0 and 3"
    assert ranks([1, 2, 5]) == "Ranks 1, 2 and 5"
