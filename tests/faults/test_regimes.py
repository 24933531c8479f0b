"""Few cases of every way of breaking Esper; `make soak` runs many by the same code."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from esper.checkpoint import PosixStorage
from tests.faults.lives import LIVES
from tests.faults.regimes import CALLS, CORRUPTION, CUTS, FULL, INJECTED, KILLS, POINTS, WALKS, Regime
from tests.faults.regimes.corruption import Damaged
from tests.faults.traced import can_trace
from tests.faults.walks import Walker

traced = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may trace nothing here")
FEW: list[tuple[Regime, int]] = [
    (CALLS, 60),
    (FULL, 24),
    (POINTS, 40),
    (KILLS, 15),
    (CORRUPTION, 10_000),
    (WALKS, 4),
]
FEW_TRACED = [(cut, 15) for cut in CUTS if cut.name != "power-run"] + [(INJECTED, 6)]


def wrong_of(regime: Regime, folder: Path, count: int) -> list[str]:
    """What went wrong in so many cases, or in all that there are."""
    cases = list(regime.cases(folder, 0, count))
    assert len(cases) == count
    return [wrong for wrong in cases if wrong]


@pytest.mark.parametrize(("regime", "count"), FEW, ids=[regime.name for regime, _ in FEW])
def test_nothing_is_lost(memory: Path, regime: Regime, count: int) -> None:
    assert wrong_of(regime, memory, count) == []


@traced
@pytest.mark.parametrize(("regime", "count"), FEW_TRACED, ids=[regime.name for regime, _ in FEW_TRACED])
def test_nothing_is_lost_by_the_calls_that_a_real_process_made(
    memory: Path, regime: Regime, count: int
) -> None:
    assert wrong_of(regime, memory, count) == []


@pytest.mark.parametrize("name", LIVES)
def test_whoever_looks_notices_that_what_was_acknowledged_is_gone(memory: Path, name: str) -> None:
    root, told = memory / "root", list[str]()
    root.mkdir()
    LIVES[name].act(root, PosixStorage(), told.append)
    assert LIVES[name].problem(root, "".join(told)) == ""
    shutil.rmtree(root)
    root.mkdir()
    assert LIVES[name].problem(root, "".join(told)) != ""


def test_other_bytes_than_were_saved_count_as_silent(memory: Path) -> None:
    damaged = Damaged(memory / "run")
    damaged.saved = {**damaged.saved, "note.bin": b"something else"}
    assert any("silent" in damaged.hurt(number) for number in range(200))


def test_a_walk_notices_what_no_longer_fits(memory: Path) -> None:
    walker = Walker(memory, 0)
    walker.check()
    walker.session.parts.network.masks.keep = walker.session.parts.network.masks.keep[1:]
    with pytest.raises(AssertionError):
        walker.check()
    assert "AssertionError" in walker.walk(1)
