"""The peak of a piece of work is its own, not that of what the process did before."""

from __future__ import annotations

import numpy as np

from esper.elesh.peak import PeakMemory

MIB = 2**20


def test_what_was_needed_before_does_not_count_and_what_is_needed_meanwhile_does() -> None:
    before = np.ones(200 * MIB, np.uint8)
    high = PeakMemory().read()
    del before
    peak = PeakMemory()
    start = peak.read()
    assert start < high - 150 * MIB
    for _ in range(2):
        block = np.ones(100 * MIB, np.uint8)
        del block
    assert 80 * MIB < peak.read() - start < 180 * MIB
