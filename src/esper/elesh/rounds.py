"""Finalists ablated in two rounds of tasks: all on some batches, and those near the line on the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.analysis import Ablated, ablate, confidence_of
from esper.elesh.case import Case
from esper.elesh.errands import Errands
from esper.elesh.evidence import Evidence, Tier
from esper.elesh.sampling import close_ones, completed
from esper.errors import AnalysisError, AnalysisTimeout


@dataclass(frozen=True, eq=False)
class Rises:
    """What finalists cost.

    Attributes:
        units: those that were measured, by number, shape [measured].
        table: rise of the loss without each of them on every batch, shape [measured, batches].
        batches: on how many batches each was ablated, shape [measured]; the others were told from these.
        notes: what was lost or late, and why.
    """

    units: IntArray
    table: FloatArray
    batches: IntArray
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
            unknown, tier=Tier.ABLATION, is_partial=bool(self.notes), notes=self.notes, screen=screen
        )


@dataclass(frozen=True)
class Rounds:
    """Sends the tasks of one analysis.

    Attributes:
        errands: where they run.
        case: the checkpoint.
        units_per_task: most that one of them ablates.
        seconds: longest attempt of a task.
        until: moment at which all of them are stopped.
    """

    errands: Errands
    case: Case
    units_per_task: int
    seconds: float
    until: float

    def rises(
        self, finalists: IntArray, kinds: NDArray[np.str_], predicted: Callable[[], FloatArray]
    ) -> Rises:
        """Ablates finalists.

        Args:
            finalists: numbers of units.
            kinds: their kinds; each has a line of its own.
            predicted: gives the rises that the look at the twin predicts of the first batches, for all units
                of the network: shape [units, batches].

        Raises:
            AnalysisTimeout: no finalist was measured, because time ran out.
            AnalysisError: none was measured.
        """
        answers, lost, late = self._ablated(finalists)
        notes = [f"{part.size} finalists stay unmeasured: {why}" for part, why in lost]
        # Where every task was late the time was too short; that is another error than a network that fails.
        if not answers and late == len(lost):
            raise AnalysisTimeout(f"None of {finalists.size} finalists was measured in time. {notes[0]}")
        if not answers:
            raise AnalysisError(f"Not one of {finalists.size} finalists was measured. {' '.join(notes)}")
        known = np.isin(finalists, np.concatenate([part for part, _ in answers]))
        units, kinds = finalists[known], kinds[known]
        rises = np.full((units.size, answers[0][1].num_batches), np.nan)
        measured = np.zeros(rises.shape, np.bool_)
        _fill(units, rises, measured, answers)
        if measured.all():
            return Rises(units, rises, measured.sum(axis=1), tuple(notes))
        # The look goes from batch to batch and may not have come to the last.
        looked = predicted()[units, : rises.shape[1]]
        known_ahead = np.full(rises.shape, np.nan)
        known_ahead[:, : looked.shape[1]] = looked
        table, error = completed(rises, measured, known_ahead)
        close = units[close_ones(kinds, table, error)]
        if close.size:
            more, lost, _ = self._ablated(close, others=True)
            notes += [f"{part.size} finalists near the line are less sure: {why}" for part, why in lost]
            _fill(units, rises, measured, more)
            table, _ = completed(rises, measured, known_ahead)
        return Rises(units, table, measured.sum(axis=1), tuple(notes))

    def _ablated(
        self, units: IntArray, *, others: bool = False
    ) -> tuple[list[tuple[IntArray, Ablated]], list[tuple[IntArray, str]], int]:
        """What tasks measured of parts of the units; parts that were lost, and why; how many were late."""
        # Equal shares for all workers, but small ones: a lost task loses few finalists.
        even = math.ceil(units.size / self.errands.pool.num_workers)
        size = max(min(self.units_per_task, even), 1)
        parts = [units[start : start + size] for start in range(0, units.size, size)]
        asked = [{"case": self.case, "units": part.tolist(), "others": others} for part in parts]
        # All are submitted before the first is waited for.
        errands = [self.errands.send(ablate, each, self.seconds, self.until) for each in asked]
        both = [(part, errand.outcome()) for part, errand in zip(parts, errands, strict=True)]
        return (
            [(part, outcome.value) for part, outcome in both if outcome.is_done],
            [(part, outcome.message) for part, outcome in both if not outcome.is_done],
            sum(outcome.is_late for _, outcome in both),
        )


def _fill(
    units: IntArray, rises: FloatArray, measured: BoolArray, answers: Sequence[tuple[IntArray, Ablated]]
) -> None:
    """Writes answers into the table [units, batches] and marks what they measured."""
    for part, ablated in answers:
        cells = np.ix_(np.flatnonzero(np.isin(units, part)), ablated.batches)
        rises[cells] = ablated.rises
        measured[cells] = True
