"""One way of breaking Esper, in numbered cases: few run with the tests, many in a soak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

Cases = Callable[[Path, int, int], Iterator[str]]
"""Cases `first` to `goal` (folder for scratch, first, goal): for each what is wrong, "" if nothing is.

They end before `goal` where there are no more.
"""


@dataclass(frozen=True)
class Regime:
    """A way of breaking it.

    Attributes:
        name: in files of results.
        what: for people: what one case is.
        goal: how many cases a whole soak has; one that enumerates may have fewer.
        cases: runs them.
        bad: what a case that is wrong is called.
        is_traced: whether it needs strace.
    """

    name: str
    what: str
    goal: int
    cases: Cases
    bad: str = "lost"
    is_traced: bool = False


def spread(points: Sequence[T], goal: int) -> list[T]:
    """So many of them, evenly; all, if there are fewer."""
    count = min(goal, len(points))
    return [points[number * len(points) // count] for number in range(count)]
