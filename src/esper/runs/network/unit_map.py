"""Every unit of a checkpoint as a cell for a picture: how much it matters, and what was done to it."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.checkpoint import CheckpointCatalog, CheckpointRef
from esper.elesh import Screened, screen
from esper.leyline import decode
from esper.runs.network.around_seeds import former_name, seed_paths
from esper.runs.network.case import ANATOMY_FILE
from esper.runs.network.stored import Stored
from esper.runs.network.unit_fates import Fate, Fates, fates_of

if TYPE_CHECKING:
    from esper.checkpoint.audit import StoredEntry

_T = TypeVar("_T")

MOST_CELLS, MOST_IN_LAYER = 12_000, 512
"""Cells that a picture, and one column of it, hold; beyond, units of like importance share one."""
_REMEMBERED = 4
"""Checkpoints whose ranks and maps are kept."""
_WAITS = "was to go, but its mask waits, was made smaller, or was taken back"


class CellState(IntEnum):
    """What was done to the units of a cell."""

    KEPT = 0
    MASKED = 1
    CUT = 2


@dataclass(frozen=True, eq=False)
class LayerCells:
    """A column: the units that layers make together, what is kept first, then masked ones, then those cut.

    Arrays have the shape [cells]. Within a state the most important units come first and those that nobody
    measured last. Only where a cell is one unit, and is still there, has it a number, a rise and a fate.

    Attributes:
        name: of the group.
        kind: of its units.
        layers: modules that make them.
        width: units that are there, masked ones included.
        cut: units that were there when the run began and are not; None if that is not known.
        is_grown: whether the units were not there when the run began.
        typical: least, median and largest rank of what is kept; NaN where nothing was measured.
        per_cell: units that a cell stands for, at most.
        state: `CellState` of each cell.
        count: units of each cell.
        unit: number in the group; -1 where it has none.
        rank: how much they matter, 0 to 1 in the whole network, the mean; NaN where nobody measured.
        rise: of the loss without the unit, as slopes on held-out samples predict it; NaN if not looked at.
        error: standard error of the rise over batches of those samples; likewise.
        fates: what the last decision said, by cell.
        said: how often each word and epoch of decisions is the last one about a unit of the column.
        gone: of the units that were cut, how many were decided after which epoch, as far as it is known.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    width: int
    cut: int | None
    is_grown: bool
    typical: tuple[float, float, float]
    per_cell: int
    state: NDArray[np.uint8]
    count: IntArray
    unit: IntArray
    rank: FloatArray
    rise: FloatArray
    error: FloatArray
    fates: Mapping[int, Fate]
    said: Mapping[tuple[str, int], int]
    gone: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class UnitMap:
    """What a picture of all units is drawn from.

    Attributes:
        layers: its columns, in the order of the network; those of which nothing is left come last.
        frozen: what cannot be removed: name, width and reason.
        units: that are there.
        cut: units that were cut out; None if that is not known.
        epoch: of the checkpoint.
        why_unranked: why nothing is ranked; '' if something is.
    """

    layers: tuple[LayerCells, ...]
    frozen: tuple[tuple[str, int, str], ...]
    units: int
    cut: int | None
    epoch: int
    why_unranked: str


class UnitMaps:
    """Maps of networks; a checkpoint is ranked once. Any thread may ask, one draws at a time."""

    def __init__(self) -> None:
        self._ranked: dict[str, Screened] = {}
        self._drawn: dict[str, tuple[int, UnitMap]] = {}
        self._ranking = threading.Lock()

    def at(
        self, catalog: CheckpointCatalog, checkpoint: CheckpointRef, entries: Iterable[StoredEntry]
    ) -> UnitMap:
        """Ranks the units as a cycle that began now would, by what the checkpoint holds.

        Args:
            catalog: where its twin and its samples lie.
            checkpoint: a verified one.
            entries: of the run's audit, oldest first.

        Raises:
            CheckpointError: it is no checkpoint of a session.
        """
        told = tuple(entries)
        with self._ranking:
            known = self._drawn.pop(checkpoint.digest, None)
            if known is None or known[0] != len(told):
                known = len(told), self._draw(Stored.of(catalog, checkpoint), told)
            _remember(self._drawn, checkpoint.digest, known)
        return known[1]

    def _draw(self, stored: Stored, told: Sequence[StoredEntry]) -> UnitMap:
        digest = stored.checkpoint.digest
        ranked = self._ranked.pop(digest, None)
        if ranked is None:
            least = stored.config.analysis.min_optimizer_steps
            ranked = screen(stored.case, stored.tracked.weights, least)
        _remember(self._ranked, digest, ranked)  # before the rest, which may fail and be asked for again
        anatomy = decode(Anatomy, json.loads(stored.checkpoint.file(ANATOMY_FILE).read_bytes()))
        return drawn_from(stored, anatomy, ranked, fates_of(stored, anatomy, told))


def _remember(kept: dict[str, _T], digest: str, value: _T) -> None:
    """Puts it last, and lets go of the oldest."""
    kept[digest] = value
    for oldest in list(kept)[:-_REMEMBERED]:
        del kept[oldest]


def drawn_from(stored: Stored, anatomy: Anatomy, ranked: Screened, fates: Fates) -> UnitMap:
    """The columns of a checkpoint."""
    seeds = seed_paths(stored.parts["structure"])
    total = fates.cut
    gone = _by_todays_names(anatomy, fates, seeds)
    before = _before(anatomy, stored.parts["terms"]["origin"]["widths"], seeds, total)
    if before is None:
        before = _before_by_decisions(anatomy, gone, total)
    left = stored.keep & ~anatomy.inside_removed(stored.keep)
    looked = np.asarray(ranked.rises, np.float64)
    last = {
        unit: replace(fate, why=_WAITS) if fate.is_chosen and left[unit] else fate
        for unit, fate in fates.last.items()
    }
    measured = _Measured(ranked.ranks, *_means(looked), left, last, gone)
    columns = [_column(anatomy, n, before, measured, seeds) for n in range(len(anatomy.groups))]
    names = {group.name for group in anatomy.groups}
    if before is not None:
        columns += [
            _gone(name, width, gone.get(name, {})) for name, width in before.items() if name not in names
        ]
    unranked = "" if np.isfinite(ranked.ranks).any() else stored.why_no_moments()
    frozen = tuple((axis.name, axis.width, axis.reason) for axis in anatomy.frozen)
    return UnitMap(tuple(columns), frozen, anatomy.num_units, total, stored.checkpoint.epoch, unranked)


def _before(
    anatomy: Anatomy, widths: Mapping[str, int], seeds: Sequence[str], total: int | None
) -> dict[str, int] | None:
    """What every group had when the run began, by today's names; None if that does not add up to the cuts."""
    known = {group.name: former_name(group.name, seeds) for group in anatomy.groups}
    before = {name: widths[former] for name, former in known.items() if former in widths}
    before |= {name: width for name, width in widths.items() if name not in known.values()}
    now = {group.name: group.width for group in anatomy.groups}
    lost = [width - now.get(name, 0) for name, width in before.items()]
    return before if min(lost, default=0) >= 0 and sum(lost) == total else None


def _by_todays_names(anatomy: Anatomy, fates: Fates, seeds: Sequence[str]) -> dict[str, Counter[int]]:
    """What was cut of every group, by the epoch that it was decided after."""
    now = {former_name(group.name, seeds): group.name for group in anatomy.groups}
    gone: dict[str, Counter[int]] = {}
    for then, counts in fates.gone.items():
        gone.setdefault(now.get(former_name(then, seeds), then), Counter()).update(counts)
    return gone


def _before_by_decisions(
    anatomy: Anatomy, gone: Mapping[str, Counter[int]], total: int | None
) -> dict[str, int] | None:
    """What every group has had, as decisions tell, where something grew; None if they do not tell of all."""
    lost = {name: counts.total() for name, counts in gone.items()}
    if sum(lost.values()) != total:
        return None
    now = {group.name: group.width for group in anatomy.groups}
    return {name: now.get(name, 0) + lost.get(name, 0) for name in dict.fromkeys((*now, *lost))}


def _means(rises: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error over batches, shape [units]; NaN where fewer than two were looked at."""
    units, batches = rises.shape
    if batches < 2:
        return np.full(units, np.nan), np.full(units, np.nan)
    return rises.mean(1), rises.std(1, ddof=1) / math.sqrt(batches)


@dataclass(frozen=True, eq=False)
class _Measured:
    """What is known of units: arrays of shape [units], fates by unit, and what is gone by group and epoch."""

    rank: FloatArray
    rise: FloatArray
    error: FloatArray
    left: BoolArray
    last: Mapping[int, Fate]
    gone: Mapping[str, Mapping[int, int]]


def _column(
    anatomy: Anatomy,
    number: int,
    before: Mapping[str, int] | None,
    measured: _Measured,
    seeds: Sequence[str],
) -> LayerCells:
    group, span = anatomy.groups[number], anatomy.unit_slice(number)
    cut = None if before is None else before.get(group.name, group.width) - group.width
    per_cell = _per_cell(anatomy.num_units, group.width + (cut or 0))
    rank, left = measured.rank[span], measured.left[span]
    # Three sorts of units that are there, which never share a cell: measured, the most important first; not
    # measured; masked.
    by_rank = np.argsort(-rank, kind="stable")
    sorts = (left & np.isfinite(rank), left & ~np.isfinite(rank), ~left)
    parts = [_chunks(by_rank[which[by_rank]], per_cell) for which in sorts]
    there = [chunk for part in parts for chunk in part]
    ghosts = [len(chunk) for chunk in _chunks(np.arange(cut or 0), per_cell)]
    states = [*parts[0], *parts[1]], parts[2], ghosts
    # Single units have a number, and what was measured of them and said of them; ghosts have nothing.
    unit = np.full(len(there) + len(ghosts), -1, np.int64)
    if per_cell == 1:
        unit[: len(there)] = [int(chunk[0]) for chunk in there]
    alone = unit >= 0
    numbered = [(int(cell), span.start + int(unit[cell])) for cell in np.flatnonzero(alone)]
    last = measured.last
    said = Counter((last[one].why, last[one].epoch) for one in range(span.start, span.stop) if one in last)
    return LayerCells(
        name=group.name,
        kind=group.kind.value,
        layers=_makers(anatomy, number),
        width=group.width,
        cut=cut,
        is_grown=any(_is_inside(group.name, path) for path in seeds),
        typical=_typical(rank[sorts[0]]),
        per_cell=per_cell,
        state=np.repeat(np.array(list(CellState), np.uint8), [len(part) for part in states]),
        count=np.array([*(len(chunk) for chunk in there), *ghosts], np.int64),
        unit=unit,
        rank=np.array([*(_mean(rank[chunk]) for chunk in there), *(math.nan for _ in ghosts)]),
        rise=np.where(alone, measured.rise[span][unit], np.nan),
        error=np.where(alone, measured.error[span][unit], np.nan),
        fates={cell: last[number] for cell, number in numbered if number in last},
        said=said,
        gone=measured.gone.get(group.name, {}),
    )


def _gone(name: str, width: int, gone: Mapping[int, int]) -> LayerCells:
    """A column of which nothing is left."""
    per_cell = _per_cell(0, width)
    counts = np.array([len(chunk) for chunk in _chunks(np.arange(width), per_cell)], np.int64)
    return LayerCells(
        name=name,
        kind="unit",
        layers=(),
        width=0,
        cut=width,
        is_grown=False,
        typical=_typical(np.zeros(0)),
        per_cell=per_cell,
        state=np.full(counts.size, CellState.CUT, np.uint8),
        count=counts,
        unit=np.full(counts.size, -1, np.int64),
        rank=np.full(counts.size, np.nan),
        rise=np.full(counts.size, np.nan),
        error=np.full(counts.size, np.nan),
        fates={},
        said={},
        gone=gone,
    )


def _per_cell(units: int, width: int) -> int:
    return max(math.ceil(units / MOST_CELLS), math.ceil(width / MOST_IN_LAYER), 1)


def _chunks(numbers: IntArray, size: int) -> list[IntArray]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _mean(ranks: FloatArray) -> float:
    """The mean of what is measured, which comes first; a chunk of which nothing is, is NaN."""
    known = ranks[np.isfinite(ranks)]
    return float(known.mean()) if known.size else math.nan


def _typical(ranks: FloatArray) -> tuple[float, float, float]:
    if not ranks.size:
        return math.nan, math.nan, math.nan
    return float(ranks.min()), float(np.median(ranks)), float(ranks.max())


def _makers(anatomy: Anatomy, number: int) -> tuple[str, ...]:
    """The modules whose weights make the units of a group."""
    members = (one.tensor for one in anatomy.groups[number].members if one.role == "producer")
    return tuple(dict.fromkeys(name.rpartition(".")[0] or name for name in members))


def _is_inside(name: str, path: str) -> bool:
    """Whether a group lies in what has grown at a place, and not in the host around it."""
    return name.startswith(f"{path}.") and not name.startswith(f"{path}.host")
