"""Finalists ablated in rounds of tasks: all on some batches, and those near the line on the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import FloatArray, IntArray
from esper.elesh.analysis import ablate
from esper.elesh.case import Case
from esper.elesh.errands import Errands
from esper.elesh.rises import Rises, RisesTable
from esper.elesh.sampling import Part
from esper.errors import AnalysisError, AnalysisTimeout

_Lost = list[tuple[int, str]]
"""How many finalists a task should have ablated that gave nothing, and why; for every such task."""


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

    def rises(self, anatomy: Anatomy, finalists: IntArray, predicted: Callable[[], FloatArray]) -> Rises:
        """Ablates finalists.

        Args:
            anatomy: the network.
            finalists: numbers of units.
            predicted: see `RisesTable`.

        Raises:
            AnalysisTimeout: no finalist was measured, because time ran out.
            AnalysisError: none was measured.
        """
        table = RisesTable(anatomy, finalists, predicted)
        lost, late = self._fill(table, np.arange(table.units.size), Part.FIRST)
        if table.is_empty:
            _refuse(table, lost, late)
        notes = _told(lost)
        lost, _ = self._fill(table, table.close(), Part.OTHERS)
        notes += [f"{count} finalists near the line are less sure: {why}" for count, why in lost]
        return table.rises(notes)

    def _fill(self, table: RisesTable, places: IntArray, part: Part) -> tuple[_Lost, int]:
        """Ablates the finalists at some places of the table; what was lost, and how many tasks were late."""
        # Equal shares for all workers, but small ones: a lost task loses few finalists.
        even = math.ceil(places.size / self.errands.pool.num_workers)
        size = max(min(self.units_per_task, even), 1)
        parts = [places[start : start + size] for start in range(0, places.size, size)]
        # All are submitted before the first is waited for.
        errands = [
            self.errands.send(
                ablate,
                {"case": self.case, "units": table.units[each].tolist(), "part": part},
                self.seconds,
                self.until,
            )
            for each in parts
        ]
        lost, late = [], 0
        for each, errand in zip(parts, errands, strict=True):
            outcome = errand.outcome()
            late += outcome.is_late
            if outcome.is_done:
                table.fill(each, outcome.value)
            else:
                lost.append((each.size, outcome.message))
        return lost, late


def _refuse(table: RisesTable, lost: _Lost, late: int) -> None:
    """Tells why nothing was measured: where every task was late the time was too short, else they failed."""
    if late == len(lost):
        raise AnalysisTimeout(f"None of {table.units.size} finalists was measured in time. {_told(lost)[0]}")
    raise AnalysisError(f"Not one of {table.units.size} finalists was measured. {' '.join(_told(lost))}")


def _told(lost: _Lost) -> list[str]:
    return [f"{count} finalists stay unmeasured: {why}" for count, why in lost]
