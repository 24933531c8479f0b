"""The list of what a program remembers: asked as a whole, loaded as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from esper.checkpoint.state import Entry, Memory, Record
from esper.errors import CheckpointError


@dataclass
class Number:
    """Remembers a number, and goes on with no negative one."""

    value: int
    asked: list[int] = field(default_factory=list)

    def state(self) -> int:
        return self.value

    def check(self, state: int) -> None:
        self.asked.append(state)
        if state < 0:
            raise CheckpointError(f"{state} is negative")

    def load(self, state: int) -> None:
        self.value = state


class Width(Number):
    """A structure: it can be given up, but not by asking it."""


class Fitting(Number):
    """Goes on with the number that is its structure's."""

    def __init__(self, value: int, width: Width) -> None:
        super().__init__(value)
        self._width = width

    def check(self, state: int) -> None:
        if state != self._width.value:
            raise CheckpointError(f"{state} does not fit {self._width.value}")


def test_what_was_captured_comes_back_and_what_survives_a_rollback_stays() -> None:
    here, ever = Number(1), Number(2)
    memory = Memory([Entry("here", here), Entry("ever", ever, survives_rollback=True)])
    saved = memory.state()
    assert saved == {"here": 1, "ever": 2}
    here.value, ever.value = 8, 9
    memory.load(saved, as_rollback=True)
    assert (here.value, ever.value) == (1, 9)
    memory.load(saved)
    assert (here.value, ever.value) == (1, 2)


@pytest.mark.parametrize("refusing", [0, 1, 2])
def test_nothing_is_loaded_if_one_part_refuses(refusing: int) -> None:
    parts = [Number(number) for number in range(3)]
    memory = Memory([Entry(str(number), part) for number, part in enumerate(parts)])
    with pytest.raises(CheckpointError, match="negative"):
        memory.load({str(number): -1 if number == refusing else 7 for number in range(3)})
    assert [part.value for part in parts] == [0, 1, 2]
    with pytest.raises(CheckpointError, match="negative"):
        memory.check({str(refusing): -1})


def test_parts_after_the_structure_are_asked_when_it_is_in_place() -> None:
    width = Width(3)
    tensor, before = Fitting(3, width), Number(0)
    memory = Memory([Entry("before", before), Entry("width", width, is_structure=True), Entry("t", tensor)])
    memory.load({"before": 1, "width": 5, "t": 5})
    assert (before.value, width.value, tensor.value) == (1, 5, 5)


def test_what_is_asked_first_is_loaded_last() -> None:
    loaded: list[str] = []

    class Told(Number):
        def load(self, state: int) -> None:
            loaded.append(f"part {state}")

    entries = [Entry(str(number), Told(number), is_structure=number == 1) for number in range(4)]
    memory = Memory(entries)
    memory.load(memory.state())
    assert loaded == ["part 1", "part 2", "part 3", "part 0"]


def test_a_structure_becomes_what_it_was_if_a_part_after_it_refuses() -> None:
    width, before = Width(3), Number(0)
    tensor = Fitting(3, width)
    memory = Memory([Entry("before", before), Entry("width", width, is_structure=True), Entry("t", tensor)])
    with pytest.raises(CheckpointError, match="4 does not fit 5"):
        memory.load({"before": 1, "width": 5, "t": 4})
    assert (before.value, width.value, tensor.value) == (0, 3, 3)


def test_a_refusal_before_the_structure_leaves_it_alone() -> None:
    width = Width(3)
    memory = Memory([Entry("before", Number(0)), Entry("width", width, is_structure=True)])
    with pytest.raises(CheckpointError, match="negative"):
        memory.load({"before": -1, "width": 5})
    assert width.asked == []


def test_a_part_that_an_older_checkpoint_does_not_know_stays_as_it_is() -> None:
    old, new = Number(1), Number(2)
    Memory([Entry("old", old), Entry("new", new)]).load({"old": 5})
    assert (old.value, new.value) == (5, 2)


def test_a_record_is_written_down_and_never_loaded() -> None:
    rows = [1]
    memory = Memory([Entry("rows", Record(lambda: list(rows)))])
    saved = memory.state()
    rows.append(2)
    memory.load(saved)
    assert (saved, rows) == ({"rows": [1]}, [1, 2])
