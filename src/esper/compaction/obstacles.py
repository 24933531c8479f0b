"""What stands in the way of a cut at once: operators, floors, levels, and code that refuses other sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from esper.anatomy import Group, Kind
from esper.anatomy.cut import Look, cut_program, feasible
from esper.anatomy.graph import Traced
from esper.anatomy.units import work_held
from esper.arrays import BoolArray
from esper.emrakul import Settings
from esper.emrakul.plan import Situation, floors
from esper.errors import SurgeryError, UntraceableError

_MOST = 4
_WORTH_NAMING = 0.02


def what_holds(
    traced: Traced, situation: Situation, keep: BoolArray, settings: Settings, refused: Mapping[str, str]
) -> str:
    """Why no more than this mask removes can go, for people: the operators and limits that hold the rest.

    Args:
        traced: the network.
        situation: of the same network, before the mask.
        keep: bool [units], what stays after all that may go has gone.
        settings: floors, levels and rounding of the choice.
        refused: groups that the network's code does not let go.
    """
    anatomy = situation.anatomy
    cuttable = np.array([group.name not in refused for group in anatomy.groups], np.bool_)
    lowest = floors(replace(situation, may_go=cuttable[anatomy.group_of]), settings)
    step = max(settings.plan.round_to, 1)
    left = np.array([int(keep[anatomy.unit_slice(n)].sum()) for n in range(len(anatomy.groups))], np.int64)
    at_floor, by_level, by_rounding = [], [], []
    for group, least, stays in zip(anatomy.groups, lowest, left, strict=True):
        if group.name in refused:
            continue
        if group.kind.level not in {level.value for level in settings.schedule.levels}:
            by_level.append(group.name)
        elif stays <= least > _fewest(group):
            at_floor.append(group.name)
        elif 0 < stays - least < step:
            by_rounding.append(group.name)
    said = [
        f"{reason} ({share:.0%} of the FLOPs run over such widths)"
        for reason, share in work_held(traced, allow_approximate=bool(anatomy.couplings)).items()
        if share >= _WORTH_NAMING
    ][:_MOST]
    if at_floor:
        said.append(f"the floors of pruning.floors, in {_listed(at_floor)}")
    if by_rounding:
        said.append(f"pruning.plan.round_to, in {_listed(by_rounding)}")
    if by_level:
        said.append(f"pruning.schedule.levels, which leaves {_listed(by_level)} out")
    if refused:
        why = next(iter(refused.values())).partition(". ")[0].rstrip(".")
        said.append(f"the network's own code, which refuses other sizes of {_listed(list(refused))}: {why}")
    return f"What holds the rest: {'; '.join(said)}." if said else ""


def _fewest(group: Group) -> int:
    """Units that every group keeps, whatever the settings: one channel alone would broadcast."""
    return max(group.least, 2) if group.kind is Kind.CHANNEL else group.least


def program_takes(look: Look, keep: BoolArray) -> bool:
    """Can the exported program be cut by this mask, whatever the network's own code says?"""
    try:
        cut_program(look.network, look.anatomy, keep, look.inputs)
    except (SurgeryError, UntraceableError):
        return False
    return True


def refusal_explained(error: SurgeryError, look: Look, keep: BoolArray) -> SurgeryError:
    """The refusal of a mask that somebody gave, with the groups that it is about and the ways out."""
    _, why = feasible(look.network, look.anatomy, keep, look.inputs)
    if not why:
        return error
    advice = f"What cannot go is in {_listed(list(why))}; everything else in the mask can be cut."
    if program_takes(look, keep):
        advice += " in_place=False cuts all of it, as a program that does not run this code."
    return type(error)(f"{error} {advice}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return f"{', '.join(names[:_MOST])}{more}"
