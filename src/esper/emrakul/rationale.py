"""Why every finalist of a cycle goes or stays, with the numbers that it was judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper.anatomy.structure import Anatomy, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan import Plan, Rejection

CHOSEN = "chosen"
"""The reason of a finalist that goes."""

_WHY = {
    CHOSEN: "goes: it saves most cost per predicted loss",
    Rejection.LEVEL: "stays: its kind may not be removed at this stage",
    Rejection.THRESHOLD: "stays: the screen ranks it above what stage and phase allow",
    Rejection.UNMEASURED: "stays: its ablation or its confidence is missing",
    Rejection.CONFIDENCE: "stays: it is not below the cut in enough resamples",
    Rejection.LEADER: "stays: it stands in for units that carry the same signal",
    Rejection.FLOOR: "stays: its layer would fall below its floor",
    Rejection.LAYERS: "stays: no more whole layers may go in this cycle, or at all",
    Rejection.LAYER_BUDGET: "stays: its layer has lost what one cycle may take from it",
    Rejection.ROUNDING: "stays: its layer would not be left with a multiple of round_to",
    Rejection.LOSS: "stays: the predicted loss would pass what is allowed",
    Rejection.BUDGET: "stays: others save the allowed share at a lower loss",
    Rejection.SHRUNK: "stays: it was planned until the validator said no",
}
_FLOATS = ("screen", "loss_increase", "confidence")


@dataclass(frozen=True, eq=False)
class Rationale:
    """One entry per finalist, those that go first, in the order of choice.

    Attributes:
        units: unit numbers, shape [finalists].
        reasons: `CHOSEN`, or the value of a `Rejection`.
        screen: importance rank, 0 to 1, NaN unmeasured, shape [finalists].
        loss_increase: measured loss rise of each alone, NaN unmeasured, shape [finalists].
        confidence: share of resamples below the cut, NaN unmeasured, shape [finalists].
    """

    units: IntArray
    reasons: tuple[str, ...]
    screen: FloatArray
    loss_increase: FloatArray
    confidence: FloatArray

    @classmethod
    def of(cls, plan: Plan, evidence: Evidence) -> Rationale:
        """The rationale of a plan and of the evidence that it was made from.

        Raises:
            EvidenceError: the evidence is about another network.
        """
        evidence.require_for(plan.anatomy_digest, plan.keep_before.size)
        parts: list[tuple[str, IntArray]] = [(CHOSEN, plan.units)]
        parts += [(reason.value, units) for reason, units in plan.rejected.items()]
        units = np.concatenate([part for _, part in parts]).astype(np.int64)
        reasons = tuple(reason for reason, part in parts for _ in range(part.size))
        return cls(units, reasons, *(getattr(evidence, name)[units] for name in _FLOATS))

    def rows(self, anatomy: Anatomy) -> list[dict[str, Any]]:
        """One row per finalist for tables and records: unit, group, kind, reason, why, and its numbers."""
        return [
            {
                "unit": anatomy.unit_id(int(unit)),
                "group": anatomy.groups[int(anatomy.group_of[unit])].name,
                "kind": anatomy.groups[int(anatomy.group_of[unit])].kind.value,
                "reason": self.reasons[row],
                "why": _WHY[self.reasons[row]],
                **{name: _number(getattr(self, name)[row]) for name in _FLOATS},
            }
            for row, unit in enumerate(self.units)
        ]

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold (NaN as null); `from_json` is its inverse."""
        return {
            "units": self.units.tolist(),
            "reasons": list(self.reasons),
            **{name: [_number(value) for value in getattr(self, name)] for name in _FLOATS},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rationale:
        floats = (np.array(data[name], np.float64) for name in _FLOATS)  # None becomes NaN
        return cls(np.array(data["units"], np.int64), tuple(data["reasons"]), *floats)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
