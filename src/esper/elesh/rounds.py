"""Finalists ablated in rounds of tasks: all on some batches, and those near the line on the others.

Where time is short, a few tell the scale of what slopes predict, those near the line are ablated as long as
it lasts, and the rest is told by its slopes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esper.arrays import IntArray
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
        enough_seconds: what ablation may take of each worker's processor before slopes are enough.
    """

    errands: Errands
    case: Case
    units_per_task: int
    seconds: float
    until: float
    enough_seconds: float = math.inf

    def rises(self, table: RisesTable) -> Rises:
        """Ablates the finalists of a table.

        Raises:
            AnalysisTimeout: no finalist was measured, because time ran out.
            AnalysisError: none was measured.
        """
        if math.isinf(self.enough_seconds) or not table.is_predicted:
            return self._all(table)
        return self._in_time(table)

    def _all(self, table: RisesTable) -> Rises:
        """All on some batches, those near the line on the others."""
        lost, late = self._fill(table, np.arange(table.units.size), Part.FIRST)
        if table.is_empty:
            _refuse(table, lost, late)
        notes = _told(lost)
        lost, _ = self._fill(table, table.close(), Part.OTHERS)
        notes += [f"{count} finalists near the line are less sure: {why}" for count, why in lost]
        return table.rises(notes, by_slopes=False)

    def _in_time(self, table: RisesTable) -> Rises:
        """The same as long as there is time; slopes tell the rest."""
        lost, late = self._fill(table, table.probes(), Part.ONE, self._work_left(table))
        if table.is_empty:
            _refuse(table, lost, late)
        # As many as fit by what those before took, the first ones nearest to the line.
        places = table.nearest(table.affordable(self._work_left(table), Part.FIRST))
        lost += self._fill(table, places, Part.FIRST, self._work_left(table))[0]
        if table.is_full.all():
            places = table.close()[: table.affordable(self._work_left(table), Part.OTHERS)]
            lost += self._fill(table, places, Part.OTHERS, self._work_left(table))[0]
        notes = [f"{count} finalists were not ablated: {why}" for count, why in lost]
        return table.rises(notes, by_slopes=True)

    def _work_left(self, table: RisesTable) -> float:
        """Seconds of the processor that ablation may still take in all workers together."""
        return max(self.enough_seconds * self.errands.pool.num_workers - table.seconds, 0.0)

    def _fill(
        self, table: RisesTable, places: IntArray, part: Part, work: float = math.inf
    ) -> tuple[_Lost, int]:
        """Ablates the finalists at some places of the table; what was lost, and how many tasks were late."""
        # Equal shares for all workers, but small ones: a lost task loses few finalists. Where time is
        # short, every worker has one task that begins with what is worth most.
        even = math.ceil(places.size / self.errands.pool.num_workers)
        size = max(even if math.isfinite(work) else min(self.units_per_task, even), 1)
        parts = [places[start : start + size] for start in range(0, places.size, size)]
        # All are submitted before the first is waited for.
        share = work / max(len(parts), 1)
        errands = [
            self.errands.send(
                ablate,
                {"case": self.case, "units": table.units[each].tolist(), "part": part, "seconds": share},
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
