"""Keys and buckets must be the same for ever: they are compared with recorded values."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.importance.elements.hashing import BucketHash, element_keys, mix

RECORDED_ELEMENTS = [7675376262831440117, -6034530653359505616, -5805736835253102493]
RECORDED_BUCKETS = [[456, 631, 988, 28], [978, 60, 882, 360], [915, 12, 896, 806]]
WORDS = st.integers(-(2**63), 2**63 - 1)


def test_keys_and_buckets_are_those_that_were_recorded() -> None:
    assert element_keys("fc.weight", torch.arange(3)).tolist() == RECORDED_ELEMENTS
    rows = BucketHash(1000, 3, seed=7).buckets(torch.tensor([0, 1, -1, 2**62]))
    assert [row.tolist() for row in rows] == RECORDED_BUCKETS


def test_another_process_hashes_alike() -> None:
    code = "import torch; from esper.importance.elements.hashing import element_keys"
    code += "; print(element_keys('a', torch.arange(2)).tolist())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(element_keys("a", torch.arange(2)).tolist())


def test_the_mixture_is_that_of_splitmix64() -> None:
    # The generator's first outputs for the seed 1234567, from its authors' reference program.
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + n * golden) % 2**64 for n in range(1, 4)]
    offset = (0xE220A8397B1DCDAF + 0) % 2**64  # what seed 0 of `mix` adds: the first output of seed 0
    keys = torch.tensor([_signed((state - offset) % 2**64) for state in states])
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [value % 2**64 for value in mix(keys).tolist()] == expected


def _signed(word: int) -> int:
    return word - 2**64 if word >> 63 else word


@given(st.lists(WORDS, min_size=1, unique=True), st.integers(0, 2**32))
def test_different_keys_stay_different(keys: list[int], seed: int) -> None:
    assert mix(torch.tensor(keys), seed).unique().numel() == len(keys)


@given(st.lists(WORDS, min_size=1), st.integers(1, 2**31 - 1), st.integers(0, 2**32))
def test_buckets_lie_within_the_width(keys: list[int], width: int, seed: int) -> None:
    for row in BucketHash(width, 4, seed).buckets(torch.tensor(keys)):
        assert int(row.min()) >= 0
        assert int(row.max()) < width


def test_neighboring_keys_fill_the_buckets_evenly_and_rows_differ() -> None:
    rows = BucketHash(128, 3).buckets(torch.arange(128 * 200))
    for row in rows:
        counts = torch.bincount(row, minlength=128).double()
        assert (
            float(((counts - 200) ** 2 / 200).sum()) < 200
        )  # chi-square of 127 degrees: 200 is beyond 1 in 10,000
    assert (rows[0] == rows[1]).double().mean() < 0.02


def test_an_element_has_another_key_in_another_tensor() -> None:
    assert not set(element_keys("a", torch.arange(100)).tolist()) & set(
        element_keys("b", torch.arange(100)).tolist()
    )
