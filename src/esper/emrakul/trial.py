"""A mask on trial: what was before it, whether it costs too much, and when it has proved itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from esper.arrays import BoolArray
from esper.emrakul.rollback import (
    Baseline,
    EpochRecord,
    RollbackReason,
    Strategy,
    has_settled,
    should_roll_back,
    strategy_for,
)
from esper.emrakul.settings import RollbackSettings
from esper.leyline import Level


@dataclass(frozen=True, eq=False)
class Watch:
    """One mask under observation.

    `epoch` is the one at whose end it was applied; `base_step` the last checkpoint without it; `settled` the
    units that were masked before and had proved themselves.
    """

    baseline: Baseline
    epoch: int
    is_on_probation: bool
    base_step: int
    settled: tuple[int, ...] = ()


@dataclass
class Trial:
    """What is on trial now, and how many rollbacks happened in a row."""

    watch: Watch | None = None
    rollbacks: int = 0
    changes: Mapping[str, Tensor] = field(default_factory=dict)
    """What was added to weights when the mask was applied; taken back with it."""

    def objection(self, records: Sequence[EpochRecord], settings: RollbackSettings) -> RollbackReason | None:
        """Why the mask must go, or None."""
        if self.watch is None:
            return None
        return should_roll_back(self._since(records), self.watch.baseline, settings)

    def is_settled(self, records: Sequence[EpochRecord], settings: RollbackSettings) -> bool:
        """Has a mask survived long enough to be cut?"""
        watch = self.watch
        return watch is not None and has_settled(
            self._since(records), watch.baseline, settings, is_on_probation=watch.is_on_probation
        )

    def settled(self, num_units: int) -> BoolArray:
        """The mask without the one on trial: bool [units]."""
        keep = np.ones(num_units, np.bool_)
        if self.watch is not None:
            keep[list(self.watch.settled)] = False
        return keep

    def settled_before(self, keep: BoolArray) -> tuple[int, ...]:
        """Units of the present mask that have proved themselves, for the watch of the next one."""
        return tuple(np.flatnonzero(~keep).tolist()) if self.watch is None else self.watch.settled

    def passed(self) -> None:
        """The mask has proved itself."""
        self.watch, self.rollbacks, self.changes = None, 0, {}

    def failed(self, reason: RollbackReason) -> tuple[int, Strategy]:
        """The mask goes. Returns the step of the last checkpoint without it, and how far to go back."""
        base_step = -1 if self.watch is None else self.watch.base_step
        strategy = strategy_for(reason, self.rollbacks)
        self.watch, self.rollbacks, self.changes = None, self.rollbacks + 1, {}
        return base_step, strategy

    def _since(self, records: Sequence[EpochRecord]) -> list[EpochRecord]:
        start = self.watch.epoch if self.watch else 0
        return [record for record in records if record.epoch > start]

    def to_json(self) -> dict[str, Any]:
        watch = self.watch
        if watch is None:
            return {"rollbacks": self.rollbacks, "watch": None}
        baseline = {**vars(watch.baseline), "level": watch.baseline.level.value}
        return {"rollbacks": self.rollbacks, "watch": {**vars(watch), "baseline": baseline}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        stored = data["watch"]
        if stored is None:
            return cls(None, data["rollbacks"])
        baseline = Baseline(**{**stored["baseline"], "level": Level(stored["baseline"]["level"])})
        settled = tuple(stored["settled"])
        return cls(Watch(**{**stored, "baseline": baseline, "settled": settled}), data["rollbacks"])
