"""What decisions have said of the units of a checkpoint, in the numbers that units have in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import IntArray
from esper.emrakul.cycle import CycleOutcome, CycleStatus
from esper.emrakul.plan import CHOSEN
from esper.leyline import decode
from esper.runs.network.stored import Stored

if TYPE_CHECKING:
    from esper.checkpoint.audit import StoredEntry

_MOST = 60
"""Newest decisions that are asked for why units stay; older ones only for what they took."""
_NOT_TAKEN = "it was chosen, but the plan was not accepted"


@dataclass(frozen=True)
class Fate:
    """What the last decision that looked at a unit said of it.

    Attributes:
        epoch: of the checkpoint that was decided about.
        is_chosen: whether it was to go, by a plan that was accepted.
        why: in words.
        loss_increase: measured change of the loss without it; None if nobody measured.
        confidence: share of resamples in which it stays below the cut; likewise.
    """

    epoch: int
    is_chosen: bool
    why: str
    loss_increase: float | None
    confidence: float | None


@dataclass(frozen=True)
class Fates:
    """What became of units.

    Attributes:
        last: by unit number in the checkpoint, of those that some decision has looked at.
        gone: units that were cut out, by the name that their group had then, and the epoch that they were
            decided after; those that went with the layers around them are not among them.
        cut: units that were cut out in all; None if the records of cuts do not tell.
    """

    last: Mapping[int, Fate]
    gone: Mapping[str, Mapping[int, int]]
    cut: int | None


def fates_of(stored: Stored, anatomy: Anatomy, entries: Iterable[StoredEntry]) -> Fates:
    """Reads decisions from the audit and carries their units over every cut since.

    Decisions of a way that was gone back over do not count. Nor do those from before something grew: which
    numbers units had then is not known here.

    Args:
        stored: the checkpoint.
        anatomy: its network.
        entries: of the run's audit, oldest first.
    """
    changes: Sequence[Mapping[str, Any]] = stored.parts["structure"].get("changes", ())
    is_complete = _tell_all(changes, stored.parts["terms"]["origin"], anatomy)
    carry = _Carry.of(changes, anatomy, is_complete)
    last: dict[int, Fate] = {}
    gone: dict[tuple[int, int], tuple[str, int]] = {}
    for outcome, is_new in _decisions(stored, entries):
        if outcome.plan is None or outcome.rationale is None:
            continue
        begun = carry.begun(outcome.plan.anatomy_digest)
        if begun is None:
            continue
        is_accepted, epoch = outcome.status is CycleStatus.ACCEPTED, outcome.key.epoch
        for unit, row in zip(outcome.rationale.units.tolist(), outcome.rationale.rows(), strict=True):
            where, number = carry.over(unit, begun)
            goes = row["reason"] == CHOSEN
            if where < len(carry.removed):
                if goes and is_accepted and carry.removed[where] is not None:
                    gone[where, number] = row["group"], epoch
            elif is_new and carry.is_of(row["unit"], unit, begun):
                why = _NOT_TAKEN if goes and not is_accepted else row["why"]
                last[number] = Fate(epoch, goes and is_accepted, why, row["loss_increase"], row["confidence"])
    counted: dict[str, Counter[int]] = {}
    for group, epoch in gone.values():
        counted.setdefault(group, Counter())[epoch] += 1
    total = sum(removed.size for removed in carry.removed if removed is not None)
    return Fates(last, counted, total if is_complete else None)


def _tell_all(changes: Sequence[Mapping[str, Any]], origin: Mapping[str, Any], anatomy: Anatomy) -> bool:
    """Whether the records of cuts tell of all units that went.

    At first they did not tell of those that went with the layers around them. In a run without layers there
    are none; and there were none if what is listed is all that is missing, where nothing grew.
    """
    if all("inside" in one for one in changes if "removed" in one):
        return True
    if not origin.get("layers", 1) and not anatomy.is_layer.any():
        return True
    listed = sum(len(one.get("removed", ())) for one in changes)
    missing = sum(origin["widths"].values()) - anatomy.num_units
    return missing == listed and not any("seed" in one for one in changes)


def _decisions(stored: Stored, entries: Iterable[StoredEntry]) -> list[tuple[CycleOutcome, bool]]:
    """Outcomes that led to the checkpoint, or are about it, oldest first; and whether each is a new one."""
    history = (stored.parts.get("coordinator") or {}).get("history", ())
    known, now = {record["key"] for record in history}, str(stored.checkpoint.epoch)
    told = (one.entry.facts["outcome"] for one in entries if one.entry.kind == "decided")
    ours = [
        one
        for one in told
        if one.get("rationale") is not None and (one["key"] in known or one["key"].partition(":")[0] == now)
    ]
    first_new = max(len(ours) - _MOST, 0)
    return [
        (decode(CycleOutcome, one), number >= first_new)
        for number, one in enumerate(ours)
        if number >= first_new or one["status"] == CycleStatus.ACCEPTED
    ]


@dataclass(frozen=True)
class _Carry:
    """Carries unit numbers over the cuts of a run.

    Attributes:
        anatomy: the network of the checkpoint.
        digests: of the anatomy before each change, and at last of the checkpoint's.
        removed: by each change, sorted unit numbers of the anatomy before it, with those that went with the
            layers around them; None where something grew, or where the records do not tell all.
    """

    anatomy: Anatomy
    digests: tuple[str, ...]
    removed: tuple[IntArray | None, ...]

    @classmethod
    def of(cls, changes: Sequence[Mapping[str, Any]], anatomy: Anatomy, is_complete: bool) -> _Carry:
        removed = tuple(
            np.sort(np.asarray([*one["removed"], *one.get("inside", ())], np.int64))
            if is_complete and "removed" in one
            else None
            for one in changes
        )
        return cls(anatomy, (*(one["anatomy"] for one in changes), anatomy.digest), removed)

    def begun(self, digest: str) -> int | None:
        """After how many changes there was an anatomy of that digest; None if never."""
        return self.digests.index(digest) if digest in self.digests else None

    def over(self, unit: int, begun: int) -> tuple[int, int]:
        """The change that ends what is known of a unit: it cut the unit, let something grow, or is not told.

        Returns:
            Its place among the changes, past their end if there is none; and the unit's number there.
        """
        for place in range(begun, len(self.removed)):
            removed = self.removed[place]
            if removed is None:
                return place, unit
            before = int(np.searchsorted(removed, unit))
            if before < removed.size and removed[before] == unit:
                return place, unit
            unit -= before
        return len(self.removed), unit

    def is_of(self, name: str, unit: int, begun: int) -> bool:
        """Whether a unit that is there lies in the group that its name tells of.

        A cut may let units be found that were none before, and numbers behind them mean something else then:
        so the beginning of the group, carried over like the unit, has to be where the group begins now.
        """
        number = self.over(unit, begun)[1]
        if number >= self.anatomy.num_units:  # of units behind it some are none any more
            return False
        group, _, place = name.rpartition("#")
        start = unit - int(place)
        for removed in self.removed[begun:]:
            start -= 0 if removed is None else int(np.searchsorted(removed, start))
        now = int(self.anatomy.group_of[number])
        return self.anatomy.groups[now].name == group and int(self.anatomy.offsets[now]) == start
