"""Stable keys and buckets: the same in every process and on every device.

Python's own `hash` of a text differs from process to process, so nothing of it is used here. Integers are
64 bits wide and wrap around, on a processor and on a GPU alike.
"""

from __future__ import annotations

from torch import Tensor

from esper.leyline import stable_id

_FIRST, _SECOND, _GOLDEN = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_BUCKET_BITS = 31


def element_keys(name: str, positions: Tensor) -> Tensor:
    """One key for every element of the tensor `name`: `positions` are flat, int64 of any shape."""
    return mix(positions ^ _signed(int(stable_id(name), 16)))


def mix(keys: Tensor, seed: int = 0) -> Tensor:
    """Spreads keys over all 64 bits, one to one: different keys stay different. int64, same shape.

    Source: the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    """
    mixed = keys + _signed(_spread(seed))
    mixed = (mixed ^ _shifted(mixed, 30)) * _signed(_FIRST)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(_SECOND)
    return mixed ^ _shifted(mixed, 31)


class BucketHash:
    """`depth` independent functions from keys to buckets, fixed by a seed.

    Keys are mixed once and then multiplied by an odd number for each row, of which the top bits count.

    Args:
        width: Buckets of every row, at most 2**31.
        depth: Rows.
        seed: Which functions.

    Source: multiply-shift hashing (Dietzfelbinger et al. 1997).
    """

    def __init__(self, width: int, depth: int, seed: int = 0) -> None:
        self._width = width
        self._seed = seed
        # For each row an odd factor and an offset, from one stream of pseudo-random words.
        words = [_spread(seed + 1 + number) for number in range(2 * depth)]
        self._rows = [(_signed(a | 1), _signed(b)) for a, b in zip(words[::2], words[1::2], strict=True)]

    def buckets(self, keys: Tensor) -> list[Tensor]:
        """The bucket of every key in each row: `depth` tensors of int64 [keys]."""
        mixed = mix(keys, self._seed)
        # The top 31 bits are a fraction of 2**31; times the width it is a bucket, for any width and without
        # a division. At most 31 + 31 bits: nothing overflows.
        return [
            (_shifted(mixed * factor + offset, 64 - _BUCKET_BITS) * self._width) >> _BUCKET_BITS
            for factor, offset in self._rows
        ]


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings in zeros; torch's own brings in the sign."""
    return (value >> bits) & (_WORD >> bits)


def _spread(number: int) -> int:
    """The `number`-th output of SplitMix64, as an unsigned 64-bit integer."""
    word = (number * _GOLDEN + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
