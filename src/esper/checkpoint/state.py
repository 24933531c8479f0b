"""What a program remembers: one ordered list of parts, captured into a checkpoint and loaded out of one.

A checkpoint is `{name: part.state()}`. To remember something new is one line in the list of whoever trains;
that of a session is `esper.session.state.entries_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Stateful(Protocol):
    """A part that remembers."""

    def state(self) -> Any:
        """What it knows, as plain values, arrays and tensors; live ones, so store or copy them soon."""

    def check(self, state: Any) -> None:
        """Raises what speaks against loading this; changes nothing."""

    def load(self, state: Any) -> None:
        """Becomes what it was when `state` was taken; `check` has admitted it."""


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        name: of the part in a checkpoint.
        part: what remembers.
        survives_rollback: whether it stays as it is when training goes back: it is about what has happened,
            not about where training is.
        is_structure: whether tensors of the parts after it only fit once it is loaded.
    """

    name: str
    part: Stateful
    survives_rollback: bool = False
    is_structure: bool = False


class Memory:
    """All parts of a run that remember, in order, with at most one structure among them.

    Those before the structure can refuse a checkpoint while nothing has been touched. Those after it are
    asked when it is in place; if one of them refuses, it becomes what it was. Values are only loaded when
    nobody has refused: first those after the structure, then those before it, because a scheduler may write
    into its optimizer, and whatever loads must not draw from randomness that was restored.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = tuple(entries)

    def state(self) -> dict[str, Any]:
        """What every part knows, by its name."""
        return {entry.name: entry.part.state() for entry in self._entries}

    def check(self, saved: Mapping[str, Any]) -> None:
        """Raises what speaks against loading these states; only for lists without a structure."""
        for entry in self._entries:
            if entry.name in saved:
                entry.part.check(saved[entry.name])

    def check_early(self, saved: Mapping[str, Any]) -> None:
        """Raises what speaks against loading these states, as far as it shows before anything is changed."""
        entries = [entry for entry in self._entries if entry.name in saved]
        first = next((n for n, entry in enumerate(entries, 1) if entry.is_structure), len(entries))
        for entry in entries[:first]:
            entry.part.check(saved[entry.name])

    def load(self, saved: Mapping[str, Any], *, as_rollback: bool = False) -> None:
        """Loads every part; one that `saved` does not know (it is older) stays as it is.

        Args:
            saved: what `state` returned.
            as_rollback: leave out what survives that.
        """
        entries = [
            entry
            for entry in self._entries
            if entry.name in saved and not (as_rollback and entry.survives_rollback)
        ]
        first = next((number for number, entry in enumerate(entries) if entry.is_structure), 0)
        structures = [(entry.part, entry.part.state()) for entry in entries if entry.is_structure]
        try:
            for entry in entries:
                entry.part.check(saved[entry.name])
                if entry.is_structure:
                    entry.part.load(saved[entry.name])
        except BaseException:
            for part, before in structures:
                part.load(before)
            raise
        for entry in (*entries[first:], *entries[:first]):
            if not entry.is_structure:
                entry.part.load(saved[entry.name])


class Record:
    """What readers of a checkpoint want to know and nothing goes on from: written down, never loaded."""

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read

    def state(self) -> Any:
        return self._read()

    def check(self, state: Any) -> None:
        """Whatever it says fits."""

    def load(self, state: Any) -> None:
        """Nothing goes on from it."""
