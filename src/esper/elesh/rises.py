"""What finalists cost: a table of units and batches that ablations fill in, and slopes where they do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.analysis import Ablated, confidence_of
from esper.elesh.evidence import Evidence, Tier
from esper.elesh.sampling import Part, close_ones, completed, nearest, probes, told


@dataclass(frozen=True, eq=False)
class Rises:
    """What finalists cost.

    Attributes:
        units: those of which something is known, by number, shape [known].
        table: rise of the loss without each of them on every batch, shape [known, batches].
        batches: on how many batches each was ablated, shape [known]; the others were told from these, or by
            slopes where there are none.
        is_partial: whether something was lost or late.
        notes: what was lost or late, and why; how many were told by slopes.
    """

    units: IntArray
    table: FloatArray
    batches: IntArray
    is_partial: bool
    notes: tuple[str, ...]

    def evidence(
        self, anatomy: Anatomy, screen: FloatArray, folded: Mapping[int, FloatArray], batch_samples: int
    ) -> Evidence:
        """What is known of all units of a network.

        Args:
            anatomy: the network.
            screen: importance rank of every unit, shape [units].
            folded: by unit, the rises on all batches that count instead of those that were measured.
            batch_samples: samples of a batch.
        """
        unknown, units = Evidence.unmeasured(anatomy.digest, anatomy.num_units), self.units
        rows = zip(units.tolist(), self.table, strict=True)
        table = np.array([folded.get(unit, row) for unit, row in rows])
        # One batch without a number makes the mean of its unit NaN: unmeasured.
        table[~np.isfinite(table)] = np.nan
        loss, sure, samples = unknown.loss_increase, unknown.confidence, unknown.samples
        loss[units] = table.mean(axis=1)
        sure[units] = confidence_of(anatomy.kind_of[units], table)
        samples[units] = self.batches * batch_samples
        return replace(
            unknown, tier=Tier.ABLATION, is_partial=self.is_partial, notes=self.notes, screen=screen
        )


class RisesTable:
    """Rows are finalists, columns batches; places count rows."""

    def __init__(self, anatomy: Anatomy, finalists: IntArray, predicted: Callable[[], FloatArray]) -> None:
        """A table in which nothing is known.

        Args:
            anatomy: the network.
            finalists: numbers of units.
            predicted: gives the rises that the look at the twin predicts of the first batches, for all units
                of the network: shape [units, batches].
        """
        self.units = finalists
        self._groups, self._kinds = anatomy.group_of[finalists], anatomy.kind_of[finalists]
        self._predicted = predicted
        self._rises = np.full((finalists.size, 0), np.nan)
        self._measured = np.zeros((finalists.size, 0), np.bool_)
        self.seconds = 0.0
        """What all ablations have taken of the processor."""
        self._cells = 0

    @property
    def is_empty(self) -> bool:
        """Whether no ablation has been filled in."""
        return not self._measured.any()

    @cached_property
    def is_predicted(self) -> bool:
        """Whether slopes say something of finalists."""
        return bool(np.isfinite(self._looked).any())

    @cached_property
    def _looked(self) -> FloatArray:
        """What is predicted of the batches that were looked at: shape [units, looked]."""
        looked: FloatArray = self._predicted()[self.units]
        return looked

    @property
    def _known_ahead(self) -> FloatArray:
        """The same for all batches; the look goes from one to the next and may not have come to the last."""
        ahead = np.full(self._rises.shape, np.nan)
        looked = self._looked[:, : ahead.shape[1]]
        ahead[:, : looked.shape[1]] = looked
        return ahead

    def fill(self, places: IntArray, ablated: Ablated) -> None:
        """Writes what a task has measured of the finalists at some places, or of the first of them."""
        if not self._rises.size:
            self._rises = np.full((self.units.size, ablated.num_batches), np.nan)
            self._measured = np.zeros(self._rises.shape, np.bool_)
        cells = np.ix_(places[: len(ablated.rises)], ablated.batches)
        self._rises[cells] = ablated.rises
        self._measured[cells] = True
        self.seconds += ablated.seconds
        self._cells += ablated.rises.size

    def probes(self) -> IntArray:
        """Places of the finalists that tell the scale of predictions."""
        return probes(self._groups, self._looked.mean(axis=1))

    def affordable(self, seconds: float, part: Part) -> int:
        """How many finalists can be ablated on a part of the batches in a time, as those before have been."""
        if not self._cells:
            return 0
        each = self.seconds / self._cells * part.of(self._rises.shape[1]).size
        return self.units.size if each <= 0 else min(int(seconds / each), self.units.size)

    @property
    def is_full(self) -> BoolArray:
        """Which finalists were ablated on enough batches to be known from these: shape [units]."""
        if self.is_empty:
            return np.zeros(self.units.size, np.bool_)
        full = self._measured[:, Part.FIRST.of(self._rises.shape[1])]
        return np.asarray(full.all(axis=1), np.bool_)

    def nearest(self, count: int) -> IntArray:
        """Places of the `count` finalists nearest to the line of their kind, by all that is known."""
        if count >= self.units.size:
            return np.arange(self.units.size)
        return nearest(self._kinds, self._table().mean(axis=1), count)

    def close(self) -> IntArray:
        """Places of those that are too close to the line to be told from it."""
        if self._measured.all():
            return np.zeros(0, np.int64)
        table, error = completed(self._rises, self._measured, self._known_ahead)
        return np.flatnonzero(close_ones(self._kinds, table, np.where(self.is_full, error, 0.0)))

    def _table(self) -> FloatArray:
        """The table without gaps, as far as something is known of a unit."""
        if self._measured.all():
            return self._rises
        ahead = self._known_ahead
        table, _ = completed(self._rises, self._measured, ahead)
        by_slopes = told(self._rises, self._measured, ahead, self._groups)
        # What was measured and gave no number stays without one.
        by_slopes[(self._measured & ~np.isfinite(self._rises)).any(axis=1)] = np.nan
        return np.where(self.is_full[:, None], table, by_slopes)

    def rises(self, notes: Sequence[str], *, by_slopes: bool) -> Rises:
        """What is known when nothing more is ablated.

        Args:
            notes: what was lost or late, and why.
            by_slopes: whether what was not ablated is told by its slopes; otherwise it stays unmeasured.
        """
        full = self.is_full
        known = np.ones(full.size, np.bool_) if by_slopes else full
        batches = np.where(full, self._measured.sum(axis=1), 0)
        is_partial = bool(notes)
        if not full[known].all():
            why = (
                f"{int(full.sum())} of {full.size} finalists were ablated in the time that there was; the "
                "others were judged by slopes of the loss, on the scale of some of their layers that were."
            )
            notes = [*notes, why]
        return Rises(self.units[known], self._table()[known], batches[known], is_partial, tuple(notes))
