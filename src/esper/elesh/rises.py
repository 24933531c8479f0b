"""What finalists cost: a table of units and batches that ablations fill in, and predictions where few did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.analysis import Ablated, confidence_of
from esper.elesh.evidence import Evidence, Tier
from esper.elesh.sampling import Part, close_ones, completed


@dataclass(frozen=True, eq=False)
class Rises:
    """What finalists cost.

    Attributes:
        units: those of which something is known, by number, shape [known].
        table: rise of the loss without each of them on every batch, shape [known, batches].
        batches: on how many batches each was ablated, shape [known]; the others were told from these.
        is_partial: whether something was lost or late.
        notes: what was lost or late, and why.
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
        self._kinds = anatomy.kind_of[finalists]
        self._predicted = predicted
        self._rises = np.full((finalists.size, 0), np.nan)
        self._measured = np.zeros((finalists.size, 0), np.bool_)

    @property
    def is_empty(self) -> bool:
        """Whether no ablation has been filled in."""
        return not self._measured.any()

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
        """Writes what a task has measured of the finalists at some places."""
        if not self._rises.size:
            self._rises = np.full((self.units.size, ablated.num_batches), np.nan)
            self._measured = np.zeros(self._rises.shape, np.bool_)
        cells = np.ix_(places, ablated.batches)
        self._rises[cells] = ablated.rises
        self._measured[cells] = True

    @property
    def is_full(self) -> BoolArray:
        """Which finalists were ablated on enough batches to be known from these: shape [units]."""
        if self.is_empty:
            return np.zeros(self.units.size, np.bool_)
        full = self._measured[:, Part.FIRST.of(self._rises.shape[1])]
        return np.asarray(full.all(axis=1), np.bool_)

    def close(self) -> IntArray:
        """Places of those that are too close to the line to be told from it."""
        if self._measured.all():
            return np.zeros(0, np.int64)
        table, error = completed(self._rises, self._measured, self._known_ahead)
        return np.flatnonzero(close_ones(self._kinds, table, np.where(self.is_full, error, 0.0)))

    def rises(self, notes: Sequence[str]) -> Rises:
        """What is known when nothing more is ablated; what was not, stays unmeasured.

        Args:
            notes: what was lost or late, and why.
        """
        full, table = self.is_full, self._rises
        if not self._measured.all():
            table, _ = completed(self._rises, self._measured, self._known_ahead)
        batches = self._measured[full].sum(axis=1)
        return Rises(self.units[full], table[full], batches, bool(notes), tuple(notes))
