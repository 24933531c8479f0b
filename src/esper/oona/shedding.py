"""Who goes when a topic is full: the lowest priority first, and never what is equal or higher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shedding:
    """Who goes.

    Attributes:
        displaced: how many of the oldest go, by priority; those that come may be among them.
        shed: positions of those that come and are not stored.
    """

    displaced: Counter[int] = field(default_factory=Counter)
    shed: tuple[int, ...] = ()


def shedding(held: Mapping[int, int], coming: Sequence[int], most: int) -> Shedding:
    """Decides for records that come in this order.

    Args:
        held: how many lie there, by priority.
        coming: the priorities of those that come.
        most: that may lie there afterwards.
    """
    lying, displaced, shed = Counter(held), Counter[int](), []
    free = most - lying.total()
    for position, priority in enumerate(coming):
        if free <= 0:
            lowest = min((one for one, number in lying.items() if number > 0), default=priority)
            if lowest >= priority:
                shed.append(position)
                continue
            lying[lowest] -= 1
            displaced[lowest] += 1
            free += 1
        lying[priority] += 1
        free -= 1
    return Shedding(displaced, tuple(shed))
