"""Every unit of a checkpoint as a cell for a picture: how much it matters, and what was done to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.checkpoint import CheckpointCatalog, CheckpointRef
from esper.elesh import open_case, screen
from esper.runs.network.stored import Stored

MOST_CELLS = 12_000
"""Cells that a picture holds; beyond, neighboring units of a group share one."""


@dataclass(frozen=True, eq=False)
class GroupCells:
    """The cells of one group.

    Attributes:
        rank: how much the units of a cell matter, 0 to 1 in the whole network, the mean: float [cells].
        masked: share of its units that are masked: float [cells].
        is_grown: whether the units were not there when the run began.
    """

    name: str
    kind: str
    width: int
    rank: FloatArray
    masked: FloatArray
    is_grown: bool


@dataclass(frozen=True, eq=False)
class UnitMap:
    """What a picture of all units is drawn from.

    Attributes:
        per_cell: units of one group that a cell stands for, at most.
        cut: units that were cut out and are no cells any more.
    """

    groups: tuple[GroupCells, ...]
    per_cell: int
    units: int
    cut: int
    epoch: int


def unit_map(catalog: CheckpointCatalog, checkpoint: CheckpointRef) -> UnitMap:
    """Ranks the units as a cycle that began now would, by what the checkpoint holds.

    Raises:
        CheckpointError: it is no checkpoint of a session.
    """
    stored = Stored.of(catalog, checkpoint)
    anatomy = open_case(stored.case).anatomy
    ranks = screen(stored.case, stored.tracked.weights, stored.config.analysis.min_optimizer_steps).ranks
    changes = stored.parts["structure"].get("changes", ())
    grown = [one["seed"]["path"] for one in changes if "seed" in one]
    per_cell = math.ceil(anatomy.num_units / MOST_CELLS) or 1
    groups = []
    for number, group in enumerate(anatomy.groups):
        span = anatomy.unit_slice(number)
        rank, masked = _cells(ranks[span], stored.keep[span], per_cell)
        groups.append(
            GroupCells(group.name, group.kind.value, group.width, rank, masked, _is_grown(group.name, grown))
        )
    cut = sum(len(one.get("removed", ())) for one in changes)
    return UnitMap(tuple(groups), per_cell, anatomy.num_units, cut, checkpoint.epoch)


def _cells(ranks: FloatArray, keep: BoolArray, per_cell: int) -> tuple[FloatArray, FloatArray]:
    """Means over neighbors; a cell in which nothing was measured stays NaN."""
    starts: IntArray = np.arange(0, ranks.size, per_cell)
    sizes = np.diff(np.append(starts, ranks.size))
    known = np.isfinite(ranks)
    counts = np.add.reduceat(known.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(known, ranks, 0.0), starts)
    mean = np.divide(sums, counts, out=np.full(starts.size, np.nan), where=counts > 0)
    return mean, np.add.reduceat((~keep).astype(np.float64), starts) / sizes


def _is_grown(name: str, paths: list[str]) -> bool:
    """Whether a group lies in what has grown at one of the places, and not in the host around it."""
    return any(name.startswith(f"{path}.") and not name.startswith(f"{path}.host") for path in paths)
