"""What layers cost as they get narrower: units that go together, with what reads them made up for.

Alone, a unit that shares its signal with others costs nothing, though all of them together cost much; and one
that others can stand in for costs more than it will. So every group is measured at a few widths, and its
units go in the order in which their readers can do without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.mend import Reader, elimination
from esper.anatomy.twin import Variants, first_uses
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.analysis import confidence_of
from esper.elesh.case import Case, OpenCase, open_case, read_data
from esper.elesh.curves import Bench, Curve, counts_at, variants
from esper.elesh.errands import Errands
from esper.elesh.evidence import Evidence, Tier
from esper.errors import AnalysisError, AnalysisTimeout
from esper.urabrask import evaluate, joined, run_twin, usable

_SHARES = (0.25, 0.5, 1.0)
"""Where a group is measured, as shares of what it may lose."""

_FEWER = (0.4, 1.0)
"""The same where there is not even time for one batch at each of them."""

_LATEST = 5.0
"""Groups are left out after so many times what measuring should take; before that they have fewer batches and
points. What one cycle leaves out, no later one in a short run has time for."""


@dataclass(frozen=True, eq=False)
class Narrowed:
    """One group at several widths.

    Attributes:
        units: units of the group, the first to go first, shape [units].
        counts: how many of them are gone at each point, rising to all, shape [points].
        changes: by how much the loss changes there, up or down, on every judged batch: shape
            [points, batches].
        samples: on how many samples it was judged.
    """

    units: IntArray
    counts: IntArray
    changes: FloatArray
    samples: int

    @property
    def costs(self) -> FloatArray:
        """What each unit adds once those before it are gone (`Curve.per_unit`): shape [units], NaN unknown.

        The size of the change counts. In a network that trains, units without which the loss falls are not
        idle: they do much, and what is left unlearned will turn the sign around.
        """
        return Curve(self.units, self.counts, np.abs(self.changes).mean(axis=1)).per_unit()

    @property
    def by_batch(self) -> FloatArray:
        """The same on every batch, as it was measured: shape [units, batches]."""
        stretches = np.diff(self.counts, prepend=0)
        slopes = np.diff(np.abs(self.changes), prepend=0.0, axis=0) / stretches[:, None]
        return np.repeat(slopes, stretches, axis=0)


def narrow(
    case: Case,
    groups: Sequence[int],
    counts: Sequence[int],
    orders: Sequence[Sequence[int]],
    reconstruct: bool,
    seconds: float = math.inf,
) -> list[Narrowed]:
    """Measures some groups, one after the other; the rest of the network stays as it is.

    Where there is no time for all of it they are judged on fewer batches, and the last ones not at all.

    Args:
        case: the checkpoint.
        groups: their numbers.
        counts: how many units each may lose, 1 or more.
        orders: of which units, the least important first: as they go where not all that reads them can be
            made up for.
        reconstruct: whether it is made up for, as it will be when a mask is applied.
        seconds: of the processor: a worker gives way to everybody, and what it finds out should not depend on
            who else is there.

    Returns:
        One for every group that there was time for.
    """
    begun = time.thread_time()
    opened = open_case(case)
    whole = replace(opened, state=opened.masked_state(opened.keep))
    batches = usable(opened.twin, read_data(case.data)[1].calibration)
    # Readers learn from one half of the batches and are judged on the other.
    judged = batches[1::2] or batches
    fitted = joined(opened.twin, batches[0::2])
    bench = Bench(whole, fitted, tuple(judged), reconstruct, set(groups), 1, case.still)
    readers = bench.readers  # watched now, so that the time it takes is known
    looking = time.thread_time()
    judge = _Judge.of(whole, judged)
    # As many batches as there is time for at every point, by what the first look at all of them took.
    points, took = sum(min(len(_SHARES), count) for count in counts), time.thread_time() - looking
    left = max(seconds - (time.thread_time() - begun), 0.0)
    share = left / max(took * points, 1e-9)
    shares = _SHARES if share * len(judged) >= 1 else _FEWER
    judge = judge.on(min(share, 1.0))
    # Where not even one batch for each point fits, the widest are measured, which were named first.
    fits = took * points / len(judged) <= _LATEST * left
    found: list[Narrowed] = []
    for number in _in_turn(whole, groups) if fits else range(len(groups)):
        group, count, order = groups[number], counts[number], orders[number]
        if found and time.thread_time() - begun > _LATEST * seconds:
            break
        units = _order(whole, readers, group, np.array(order, np.int64), count)
        if not units.size:
            continue
        sizes = counts_at(shares, units)
        changes = [judge.changes(bench.thinned(units[:size])) for size in sizes]
        found.append(Narrowed(units, sizes, np.array(changes), judge.samples))
    return found


def _in_turn(opened: OpenCase, groups: Sequence[int]) -> Sequence[int]:
    """Places of the groups, those that the network reads first before the others."""
    uses, anatomy = first_uses(opened.twin), opened.anatomy
    first = [min(uses.get(member.tensor, 0) for member in anatomy.groups[group].members) for group in groups]
    return sorted(range(len(groups)), key=first.__getitem__)


@dataclass(frozen=True, eq=False)
class _Judge:
    """Compares a network's loss with that of the whole one, batch by batch.

    Attributes:
        batches: to be run with other tensors.
        losses: of the whole network on each, shape [batches].
        counts: samples of each, shape [batches].
    """

    batches: Sequence[Variants]
    losses: FloatArray
    counts: IntArray

    @classmethod
    def of(cls, opened: OpenCase, batches: Sequence[Any]) -> _Judge:
        quality = evaluate(run_twin(opened.twin, opened.state), batches)
        if quality.losses is None or quality.samples is None:
            raise AnalysisError("There are no samples to judge layers on: esper.attach was given no probe=.")
        return cls(variants(opened, batches), quality.losses, quality.samples)

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    def on(self, share: float) -> _Judge:
        """The same on a share of the batches, one at least, spread evenly."""
        count = max(int(share * len(self.batches)), 1)
        few = np.unique(np.linspace(0, len(self.batches) - 1, count).round().astype(np.int64))
        return _Judge([self.batches[n] for n in few], self.losses[few], self.counts[few])

    def changes(self, state: Mapping[str, Tensor]) -> FloatArray:
        """By how much the loss changes with other tensors: shape [batches]."""
        change: FloatArray = np.array([batch.loss(state) for batch in self.batches]) - self.losses
        return change


def _order(opened: OpenCase, readers: Sequence[Reader], group: int, may_go: IntArray, count: int) -> IntArray:
    """Which units of a group go, the first to go first: at most `count` of those that may."""
    left = int(opened.keep[opened.anatomy.unit_slice(group)].sum())
    # Some that may not go can be among the cheapest, so as many more are put in order.
    wanted = min(count + left - may_go.size, left - 1)
    units = (
        elimination(opened.anatomy, group, opened.state, readers, opened.keep, wanted) if wanted > 0 else None
    )
    return may_go[:count] if units is None else units[np.isin(units, may_go)][:count]


@dataclass(frozen=True)
class Narrowing:
    """Sends the tasks of one analysis: a part of the groups to each worker.

    Attributes:
        errands: where they run.
        case: the checkpoint.
        reconstruct: whether what reads units makes up for them.
        seconds: longest attempt of a task.
        until: moment at which all of them are stopped.
        enough_seconds: what a task may take of its worker's processor.
    """

    errands: Errands
    case: Case
    reconstruct: bool
    seconds: float
    until: float
    enough_seconds: float = math.inf

    def evidence(self, anatomy: Anatomy, ranks: FloatArray, finalists: IntArray, keep: BoolArray) -> Evidence:
        """What every group costs at several widths; those of a lost or late task stay unmeasured.

        Args:
            anatomy: the network.
            ranks: importance of every unit by the screen, shape [units]; NaN for one that must stay.
            finalists: their number in a group says how many it may lose; which ones, its readers say.
            keep: units that are left, shape [units].

        Raises:
            AnalysisTimeout: no group was measured, because time ran out.
            AnalysisError: none was measured.
        """
        groups, counts = np.unique(anatomy.group_of[finalists], return_counts=True)
        may_go = np.flatnonzero(keep & np.isfinite(ranks))
        may_go = may_go[np.argsort(ranks[may_go], kind="stable")]
        # The widest first, dealt out in turns, so that all workers have about as much to do.
        widest = np.argsort(-counts, kind="stable")
        workers = max(self.errands.pool.num_workers, 1)
        parts = [part for part in (widest[start::workers] for start in range(workers)) if part.size]
        given = [
            {
                "case": self.case,
                "groups": groups[part].tolist(),
                "counts": counts[part].tolist(),
                "orders": [may_go[anatomy.group_of[may_go] == group].tolist() for group in groups[part]],
                "reconstruct": self.reconstruct,
                "seconds": self.enough_seconds,
            }
            for part in parts
        ]
        found: list[Narrowed] = []
        notes: list[str] = []
        late = 0
        # All are submitted before the first is waited for.
        errands = [self.errands.send(narrow, each, self.seconds, self.until) for each in given]
        for part, errand in zip(parts, errands, strict=True):
            outcome = errand.outcome()
            late += outcome.is_late
            measured = outcome.value if outcome.is_done else []
            found += measured
            if len(measured) < part.size:
                why = "there was no time for more" if outcome.is_done else outcome.message
                notes.append(f"{part.size - len(measured)} of {part.size} layers were not measured: {why}.")
        if not found:
            error = AnalysisTimeout if late == len(parts) else AnalysisError
            raise error(f"Not one of {groups.size} layers was measured. {' '.join(notes)}")
        return _evidence(anatomy, ranks, found, notes)


def _evidence(
    anatomy: Anatomy, ranks: FloatArray, found: Sequence[Narrowed], notes: Sequence[str]
) -> Evidence:
    evidence = Evidence.unmeasured(anatomy.digest, anatomy.num_units)
    for one in found:
        costs = one.costs
        evidence.loss_increase[one.units] = costs
        evidence.samples[one.units] = np.where(np.isfinite(costs), one.samples, 0)
    units = np.concatenate([one.units for one in found])
    # One task may have had time for more batches than another; resamples are of as many as all had.
    fewest = min(one.changes.shape[1] for one in found)
    by_batch = np.concatenate([one.by_batch[:, :fewest] for one in found])
    evidence.confidence[units] = confidence_of(anatomy.kind_of[units], by_batch)
    return replace(
        evidence, tier=Tier.ABLATION, is_partial=bool(notes), notes=tuple(notes), screen=ranks.copy()
    )
