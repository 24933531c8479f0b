"""The gates of one network, asked in one of the processes that train it, and heard by all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from esper.kasmina.seeds.gatekeeper import Gatekeeper
from esper.kasmina.seeds.gates import GateResult
from esper.kasmina.seeds.owners import Owners
from esper.kasmina.seeds.slot import Slot
from esper.kasmina.seeds.world import World


@dataclass(frozen=True)
class _Outline:
    """Of what a module makes of held-out batches, and how often it is called in a pass."""

    shape: tuple[int, ...]
    dtype: str
    calls: int


class AskedGates:
    """Asks a gatekeeper where he has held-out data: in the first process. Arguments are those of his.

    Args:
        gates: the gatekeeper of this process.
        world: all of them.
    """

    def __init__(self, gates: Gatekeeper, world: World) -> None:
        self._gates, self._world = gates, world

    def is_due(self, slot: Slot) -> bool:
        return self._gates.is_due(slot)  # of steps and epochs, which all processes count alike

    def places(self, pattern: str) -> list[str]:
        return self._world.answer(list[str], partial(self._gates.places, pattern))

    def look(self, slot: Slot) -> tuple[list[Tensor], int]:
        """As the gatekeeper's; a process that only hears it has one tensor, of that shape and without values.

        Raises:
            ConfigError: nothing can stand at that place.
        """
        seen: list[Tensor] = []

        def outlined() -> _Outline:
            found, calls = self._gates.look(slot)
            seen.extend(found)
            return _Outline(tuple(found[0].shape), str(found[0].dtype).removeprefix("torch."), calls)

        told = self._world.answer(_Outline, outlined)
        outline = torch.empty(told.shape, dtype=getattr(torch, told.dtype), device="meta")
        return seen or [outline], told.calls

    def sanity(self, slot: Slot, seen: list[Tensor], calls: int, owners: Owners) -> GateResult:
        return self._world.answer(GateResult, partial(self._gates.sanity, slot, seen, calls, owners))

    def ask(self, slot: Slot) -> GateResult:
        slot.track.looks += 1
        return self._world.answer(GateResult, partial(self._gates.ask, slot))

    def reset(self, slot: Slot, owners: Owners) -> GateResult:
        return self._world.answer(GateResult, partial(self._gates.reset, slot, owners))
