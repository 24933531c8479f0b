"""Which checkpoints may go."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.retention import Pins, expendable, signature
from esper.checkpoint.storage import PosixStorage
from esper.errors import CheckpointError

some_steps = st.sets(st.integers(0, 30))


@given(some_steps, some_steps, some_steps, st.integers(1, 5))
def test_the_newest_that_verify_and_the_pinned_stay(
    good: set[int], steps: set[int], pinned: set[int], keep: int
) -> None:
    newest_first = sorted(steps, reverse=True)
    gone = expendable(newest_first, good.__contains__, pinned, keep)
    left = [step for step in newest_first if step not in gone]
    assert not pinned & set(gone)
    verified = [step for step in newest_first if step in good]
    assert set(verified[:keep]) <= set(left)
    if len(verified) < keep:
        assert not gone
    else:
        assert all(step >= verified[keep - 1] or step in pinned for step in left)


def test_verifying_stops_when_enough_are_good() -> None:
    asked: list[int] = []

    def is_verified(step: int) -> bool:
        asked.append(step)
        return step != 8

    assert expendable([9, 8, 7, 6, 5], is_verified, {5}, 2) == [6]
    assert asked == [9, 8, 7]


def test_pins_have_reasons_and_survive_until_the_last_is_taken_back(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "pins", PosixStorage())
    assert pins.all() == {}
    pins.add(3, "baseline")
    pins.add(3, "baseline")
    pins.add(3, "mask-01")
    assert Pins(tmp_path / "pins", PosixStorage()).all() == {3: frozenset({"baseline", "mask-01"})}
    pins.remove(3, "baseline")
    pins.remove(3, "baseline")
    assert pins.all() == {3: frozenset({"mask-01"})}
    pins.add(4, "x")
    (tmp_path / "pins" / "note.txt").touch()
    pins.keep_only([4])
    assert pins.all() == {4: frozenset({"x"})}


@pytest.mark.parametrize("label", ["", "a/b", "A", "x" * 65])
def test_a_label_is_plain(tmp_path: Path, label: str) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        Pins(tmp_path, PosixStorage()).add(1, label)


def test_a_pin_whose_sync_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="sync"):
        Pins(tmp_path, FaultyStorage(fail_at=2)).add(1, "a")


def test_a_signature_notices_a_change(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    assert signature(directory) == ()
    directory.mkdir()
    (directory / "sub").mkdir()
    (directory / "f").write_text("a")
    before = signature(directory)
    assert signature(directory) == before
    (directory / "f").write_text("bb")
    assert signature(directory) != before
