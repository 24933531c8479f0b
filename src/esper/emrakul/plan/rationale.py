"""Why every finalist of a cycle goes or stays, with the numbers that it was judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import FloatArray, IntArray
from esper.elesh import Evidence, Tier
from esper.emrakul.plan.plan import Plan, Rejection

CHOSEN = "chosen"
"""The reason of a finalist that goes."""

_WHY = {
    CHOSEN: "goes: it saves most cost per predicted loss",
    Rejection.LEVEL: "stays: its kind may not be removed at this stage",
    Rejection.THRESHOLD: "stays: the screen ranks it above what stage and phase allow",
    Rejection.UNMEASURED: "stays: it was not measured, or not surely",
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
_TIERS = {Tier.NONE: None, Tier.SCREEN: "screen", Tier.TWIN: "twin", Tier.ABLATION: "ablation"}
_FLOATS = ("screen", "loss_increase", "confidence", "predicted_loss", "saved_fraction")


@dataclass(frozen=True, eq=False)
class Rationale:
    """One entry per finalist, those that go first, in the order of choice. NaN is unmeasured.

    Attributes:
        units: unit numbers, shape [finalists].
        names: their names, such as `layer1.conv1#3`.
        kinds: `Kind` of their groups.
        reasons: `CHOSEN`, or the value of a `Rejection`.
        tiers: `Tier` by which each was judged, shape [finalists].
        screen: importance rank, 0 to 1, shape [finalists].
        loss_increase: measured change of the loss by each (`Evidence.loss_increase`), shape [finalists].
        confidence: share of resamples below the cut, shape [finalists].
        predicted_loss: loss that each is expected to cost in the plan, shape [finalists]; NaN for those that
            stay.
        saved_fraction: share of the original cost that each saves there, shape [finalists]; likewise.
    """

    units: IntArray
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    reasons: tuple[str, ...]
    tiers: IntArray
    screen: FloatArray
    loss_increase: FloatArray
    confidence: FloatArray
    predicted_loss: FloatArray
    saved_fraction: FloatArray

    @staticmethod
    def __stored_before__(stored: Mapping[str, Any]) -> Mapping[str, Any]:
        """Runs did not store all of it at first."""
        units = stored["units"]
        unknown = {
            "names": [f"#{unit}" for unit in units],
            "kinds": [""] * len(units),
            "tiers": [int(Tier.NONE)] * len(units),
            **dict.fromkeys(("predicted_loss", "saved_fraction"), [None] * len(units)),
        }
        return {**unknown, **stored}

    @classmethod
    def of(cls, plan: Plan, evidence: Evidence, anatomy: Anatomy) -> Rationale:
        """The rationale of a plan, of the evidence that it was made from, and of the network of both.

        Raises:
            EvidenceError: the evidence is about another network.
        """
        evidence.require_for(plan.anatomy_digest, plan.keep_before.size)
        parts: list[tuple[str, IntArray]] = [(CHOSEN, plan.units)]
        parts += [(reason.value, units) for reason, units in plan.rejected.items()]
        units = np.concatenate([part for _, part in parts]).astype(np.int64)
        # Whatever stays has no numbers of the plan.
        beyond = (0, units.size - plan.units.size)
        return cls(
            units=units,
            names=tuple(anatomy.unit_id(int(unit)) for unit in units),
            kinds=tuple(anatomy.groups[int(group)].kind.value for group in anatomy.group_of[units]),
            reasons=tuple(reason for reason, part in parts for _ in range(part.size)),
            tiers=evidence.tiers[units],
            screen=evidence.screen[units],
            loss_increase=evidence.loss_increase[units],
            confidence=evidence.confidence[units],
            predicted_loss=np.pad(plan.predicted_loss, beyond, constant_values=np.nan),
            saved_fraction=np.pad(plan.saved_cost / plan.origin_cost, beyond, constant_values=np.nan),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per finalist for tables and records: unit, group, kind, tier, reason, why, its numbers."""
        return [
            {
                "unit": name,
                "group": name.rpartition("#")[0],
                "kind": self.kinds[row],
                "tier": _TIERS[Tier(int(self.tiers[row]))],
                "reason": self.reasons[row],
                "why": _WHY[self.reasons[row]],
                **{column: _number(getattr(self, column)[row]) for column in _FLOATS},
            }
            for row, name in enumerate(self.names)
        ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
