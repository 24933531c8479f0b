"""What tier 2 found out, joined to the screen: a part that is missing leaves its units at tier 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.head_patterns import HeadPatterns
from esper.elesh.second_tier import UnitFindings
from esper.elesh.settings import HeadWeights
from esper.importance import combine


@dataclass(frozen=True, eq=False)
class SecondLook:
    """What the twin told about all units; NaN and -1 where it told nothing.

    Attributes:
        taylor: exact first-order change of the loss, shape [units].
        activation_frequency: share of active elements, shape [units].
        diversity: divergence of a head's pattern from the nearest other, shape [units].
        focus: 1 - normalized entropy of a head's pattern, shape [units].
        magnitude: size of the weights, shape [units].
        leaders: the unit that carries the same signal and is more important, shape [units].
        folded_rises: by unit, the rise of the loss on every batch with its leader in its place.
        notes: what was not measured, and why.
    """

    taylor: FloatArray
    activation_frequency: FloatArray
    diversity: FloatArray
    focus: FloatArray
    magnitude: FloatArray
    leaders: IntArray
    folded_rises: Mapping[int, FloatArray]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        anatomy: Anatomy,
        units: Sequence[UnitFindings],
        heads: Sequence[HeadPatterns],
        magnitude: FloatArray | None,
        notes: tuple[str, ...] = (),
    ) -> SecondLook:
        """Joins what several tasks have found."""
        unknown = np.full(anatomy.num_units, np.nan)
        look = cls(
            taylor=unknown.copy(),
            activation_frequency=unknown.copy(),
            diversity=unknown.copy(),
            focus=unknown.copy(),
            magnitude=unknown.copy() if magnitude is None else magnitude,
            leaders=np.full(anatomy.num_units, -1, np.int64),
            folded_rises={
                unit: row
                for part in units
                for unit, row in zip(part.folded.tolist(), part.folded_rises, strict=True)
            },
            notes=notes,
        )
        for part in units:
            look.taylor[part.units] = part.taylor
            look.activation_frequency[part.units] = part.activation_frequency
            look.leaders[part.units] = part.leaders
        for pattern in heads:
            for numbers, values in ((look.diversity, pattern.diversity), (look.focus, 1 - pattern.entropy)):
                for unit in np.unique(pattern.units[pattern.units >= 0]):  # grouped queries share a unit
                    # Of several heads in one unit the most distinct counts; NaN is passed over.
                    numbers[unit] = np.fmax.reduce(values[pattern.units == unit])
        is_head = np.array([group.kind is Kind.HEAD for group in anatomy.groups], np.bool_)
        look.activation_frequency[is_head[anatomy.group_of]] = np.nan  # hardly an element of a head is zero
        return look

    @property
    def is_measured(self) -> BoolArray:
        """Units of which the twin told something: shape [units]."""
        return np.isfinite(self.taylor)

    def joined(self, ranks: FloatArray, weights: Mapping[str, float], heads: HeadWeights) -> FloatArray:
        """The screen with what the twin told: shape [units].

        Units that were measured are ranked by that, the others keep their rank. A unit that another one can
        stand in for comes first, because nothing is cheaper than what is there twice.

        Args:
            ranks: the screen, NaN where a unit may not go.
            weights: `taylor`, `magnitude`, `activation_frequency`.
            heads: weights of what patterns tell.
        """
        if not self.is_measured.any():
            return ranks
        shares = {**weights, "diversity": heads.diversity, "focus": heads.focus}
        parts = {
            "taylor": self.taylor,
            "magnitude": np.where(self.is_measured, self.magnitude, np.nan),
            "activation_frequency": self.activation_frequency,
            "diversity": self.diversity,
            "focus": self.focus,
        }
        told = combine({name: scores for name, scores in parts.items() if name in shares}, shares)
        known = np.isfinite(ranks) & self.is_measured
        joined: FloatArray = np.where(known, told, ranks)
        # What is there twice gets rank 0, except where it may not go at all.
        folded = np.array(sorted(self.folded_rises), np.int64)
        joined[folded] = np.where(np.isfinite(ranks[folded]), 0.0, np.nan)
        return joined
