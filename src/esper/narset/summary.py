"""Many values as one, so that two summaries add up to that of all their values, bit for bit.

Sums are kept without rounding: as the nearest double, the nearest double to what that leaves, and so on
until nothing is left. That form is unique for a sum, so neither order nor grouping shows in it. Quantiles
come from counts in buckets whose borders are the first bits of a double, and counts add up too. The sketches
of libraries were measured beside it (`benchmarks/telemetry.py`): they merge by chance or by order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from struct import Struct
from types import MappingProxyType
from typing import NamedTuple

from esper.nissa import Spread

LARGEST = 1e140
"""Size beyond which a value counts as not finite: the sum of squares could not hold many of them."""

RELATIVE_ERROR = 1 / 128
"""How far a quantile may be from the value of that rank, as a share of it, down to 2.2e-308."""

_DROPPED_BITS = 46  # of 52: 64 buckets for every power of two
_WINDOW = 32


def _forms(count: int) -> tuple[Struct, Struct]:
    """How that many doubles become the numbers that their bits are."""
    return Struct(f"{count}d"), Struct(f"{count}q")


_FORMS = _forms(_WINDOW)


class Summary(NamedTuple):
    """Some values of one quantity.

    Attributes:
        finite: how many finite values.
        not_finite: how many others, which are in none of the fields below.
        least: the smallest; None without a finite value.
        most: likewise the largest.
        parts: add up to the exact sum of the values; the first is that sum as the nearest double.
        square_parts: likewise for the squares, each of which is rounded to a double before.
        buckets: how many values are in a bucket, by its number; numbers are ordered as values are.
    """

    finite: int = 0
    not_finite: int = 0
    least: float | None = None
    most: float | None = None
    parts: tuple[float, ...] = ()
    square_parts: tuple[float, ...] = ()
    buckets: Mapping[int, int] = MappingProxyType({})

    @property
    def total(self) -> float:
        """The sum of the finite values, rounded once."""
        return self.parts[0] if self.parts else 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.finite if self.finite else None

    def quantile(self, share: float) -> float | None:
        """The least value that at least this share is not above, within `RELATIVE_ERROR` of itself.

        None where nothing finite was summed up, or by a writer that kept no buckets.
        """
        if self.least is None or self.most is None or not self.buckets:
            return None
        rank = max(math.ceil(share * self.finite) - 1, 0)
        for bucket in sorted(self.buckets):
            rank -= self.buckets[bucket]
            if rank < 0:
                return min(max(_middle(bucket), self.least), self.most)
        return self.most


def summed(values: Sequence[float]) -> Summary:
    """The summary of some values, in any order."""
    sizes = [value for value in values if -LARGEST <= value <= LARGEST]  # false for nan
    if not sizes:
        return Summary(not_finite=len(values))
    least, most = min(sizes) + 0.0, max(sizes) + 0.0  # no -0.0
    bits, numbers = _FORMS if len(sizes) == _WINDOW else _forms(len(sizes))
    keys = numbers.unpack(bits.pack(*sizes))
    find = _bucket if least <= 0 else _DROPPED_BITS.__rrshift__
    return Summary(
        len(sizes),
        len(values) - len(sizes),
        least,
        most,
        _exact(sizes.copy()),
        _exact([size * size for size in sizes]),
        Counter(map(find, keys)),
    )


def merged(summaries: Iterable[Summary]) -> Summary:
    """The summary of all their values."""
    given = list(summaries)
    if len(given) == 1:
        return given[0]
    buckets = dict(given[0].buckets) if given else {}
    known = buckets.get
    for one in given[1:]:
        for bucket, count in one.buckets.items():
            buckets[bucket] = known(bucket, 0) + count
    return Summary(
        finite=sum([one.finite for one in given]),
        not_finite=sum([one.not_finite for one in given]),
        least=min((one.least for one in given if one.least is not None), default=None),
        most=max((one.most for one in given if one.most is not None), default=None),
        parts=_exact([part for one in given for part in one.parts]),
        square_parts=_exact([part for one in given for part in one.square_parts]),
        buckets=buckets,
    )


def _exact(values: list[float]) -> tuple[float, ...]:
    """The one form of their sum; `values` are used up."""
    parts = []
    while part := math.fsum(values):
        parts.append(part)
        values.append(-part)
    return tuple(parts)


def _bucket(number: int) -> int:
    """Of a double whose bits are this number; negative values count down from -1, and -0 is 0."""
    size = number & 0x7FFF_FFFF_FFFF_FFFF
    return ~(size >> _DROPPED_BITS) if number < 0 and size else size >> _DROPPED_BITS


def _middle(bucket: int) -> float:
    """The value halfway between the borders of a bucket."""
    size = bucket if bucket >= 0 else ~bucket
    doubles, numbers = _forms(2)
    low, high = doubles.unpack(numbers.pack(size << _DROPPED_BITS, (size + 1) << _DROPPED_BITS))
    middle = float(low + (high - low) / 2)
    return middle if bucket >= 0 else -middle


def spread_of(summary: Summary) -> Spread:
    """What people are told of a summary; quantiles are within 1/128 of themselves."""
    return Spread(
        count=summary.finite,
        not_finite=summary.not_finite,
        total=summary.total,
        mean=summary.mean,
        least=summary.least,
        most=summary.most,
        p50=summary.quantile(0.5),
        p95=summary.quantile(0.95),
        p99=summary.quantile(0.99),
    )
