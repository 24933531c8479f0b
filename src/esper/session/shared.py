"""What rank 0 does to its network and to what it remembers, done on all ranks at the same step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from esper.arrays import BoolArray
from esper.checkpoint import Entry, Memory
from esper.kasmina import LiveNetwork, UnitsCut
from esper.kasmina.seeds import Blueprint
from esper.nissa import Event, rank_events
from esper.session.ranks import Ranks
from esper.session.standing import RANDOM
from esper.session.state import RANDOM_OF_RANKS, SHARED

BEGIN, CHECK, LOAD = "begin", "check", "load"
MASK, UNMASK, ADJUST, BUFFERS, CUT = "mask", "bring units back", "change weights", "set buffers", "cut"
LOOK, TEACH = "look at the network", "begin to teach"
"""What rank 0 can order."""


class LeadingNetwork(LiveNetwork):
    """The live network of rank 0: whatever is done to it is done on every rank, at the same step."""

    def __init__(self, ranks: Ranks, *given: Any, **more: Any) -> None:
        self._ranks = ranks
        super().__init__(*given, **more)

    def mask(self, keep: BoolArray) -> None:
        self._ranks.order(MASK, {"keep": keep}, partial(super().mask, keep))

    def unmask(self, but: BoolArray) -> None:
        self._ranks.order(UNMASK, {"but": but}, partial(super().unmask, but))

    def adjust(self, changes: Mapping[str, Tensor], sign: int = 1) -> None:
        if changes:
            what = {"changes": dict(changes), "sign": sign}
            self._ranks.order(ADJUST, what, partial(super().adjust, changes, sign))

    def set_buffers(self, values: Mapping[str, Tensor], version: int = 0) -> None:
        if values:
            what = {"values": dict(values), "version": version}
            self._ranks.order(BUFFERS, what, partial(super().set_buffers, values, version))

    def cut_masked(self, left: BoolArray | None = None) -> UnitsCut:
        return self._ranks.order(CUT, {"left": left}, partial(super().cut_masked, left))


def looked_at_together(
    ranks: Ranks,
    *given: Any,
    blueprints: Mapping[str, Blueprint],
    layers: bool,
    free: frozenset[tuple[int, int]],
    followers: Mapping[str, str] | None,
    is_coupled: bool,
) -> LeadingNetwork:
    """Looks at the network on all ranks, with the sample of rank 0.

    Args:
        ranks: all of them.
        given: as for `LiveNetwork`: model, optimizer, sample, and more.
        blueprints: as for `LiveNetwork`; each rank has been given them.
        layers: as for `LiveNetwork`.
        free: likewise.
        followers: likewise.
        is_coupled: likewise.
    """
    known: dict[str, Any] = {"layers": layers, "followers": followers, "is_coupled": is_coupled}
    look = partial(LeadingNetwork, ranks, *given, blueprints=blueprints, free=free, **known)
    return ranks.order(LOOK, {"sample": given[2], "free": sorted(free), **known}, look)


class SharedMemory(Memory):
    """What rank 0 remembers, for all ranks: a checkpoint of it is loaded on each of them.

    Of every rank it holds the state of its random numbers, as it was when the ranks met last.
    """

    def __init__(self, entries: Sequence[Entry], ranks: Ranks, tell: Callable[[Event], None]) -> None:
        super().__init__(entries)
        self._ranks, self._tell = ranks, tell

    def state(self) -> dict[str, Any]:
        return {**super().state(), RANDOM_OF_RANKS: [note[RANDOM] for note in self._ranks.notes]}

    def load(self, saved: Mapping[str, Any], *, as_rollback: bool = False) -> None:
        """Loads everywhere, if nobody has anything against it."""
        random = saved.get(RANDOM_OF_RANKS, [])
        if len(random) != len(self._ranks):
            self._tell(rank_events.OtherProcesses(max(len(random), 1), len(self._ranks)))
        what = {"saved": {name: saved[name] for name in SHARED if name in saved}, "random": random}
        self._ranks.order(CHECK, what, partial(self.check_early, saved))
        self._ranks.order(LOAD, {}, partial(super().load, saved, as_rollback=as_rollback))
