"""A choice without any measurement: the units with the smallest weights, under the same floors as a plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import Origin
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings, Target
from esper.errors import ConfigError
from esper.importance import magnitude

_STEPS = 64


@dataclass(frozen=True, eq=False)
class Choice:
    """Units to keep, shape [units], the share of the cost that goes, and what people should know."""

    keep: BoolArray
    removed_fraction: float
    notes: tuple[str, ...]


def choose_by_magnitude(
    anatomy: Anatomy,
    parameters: Mapping[str, Tensor],
    settings: Settings,
    *,
    allowed: BoolArray | None = None,
    homogeneous: bool = False,
) -> Choice:
    """Chooses the units with the smallest weights until the target is met or every floor is.

    Nothing is measured: how much quality that costs is not known.

    Args:
        anatomy: the network.
        parameters: its parameters by name.
        settings: target, floors, levels and rounding.
        allowed: units that may go, shape [units]; None: all.
        homogeneous: leave the same width in layers that are alike (`layers.0.mlp`, `layers.1.mlp`).

    Raises:
        ConfigError: there is no target.
    """
    if settings.target is None:
        raise ConfigError(
            "A choice by magnitude needs a target. Give a share to remove, for example flops=0.5, or a mask "
            "of your own."
        )
    scores = magnitude(anatomy, parameters)
    if allowed is not None:
        scores = np.where(allowed, scores, np.nan)
    levels = {level.value for level in settings.schedule.levels}
    is_level = np.array([group.kind.level in levels for group in anatomy.groups], np.bool_)
    scores = np.where(is_level[anatomy.group_of], scores, np.nan) if anatomy.groups else scores
    choose = _alike if homogeneous else _freely
    keep = choose(anatomy, scores, settings, settings.target)
    removed = Origin.of(anatomy).removed_fraction(anatomy, keep, settings.target.cost)
    notes = ["Chosen by the size of weights; what it costs in quality was not measured."]
    if removed < settings.target.fraction - 0.01:
        notes.append(
            f"{removed:.1%} of the {settings.target.cost} can go instead of {settings.target.fraction:.1%}."
        )
    return Choice(keep, removed, tuple(notes))


def _freely(anatomy: Anatomy, scores: FloatArray, settings: Settings, target: Target) -> BoolArray:
    """As a plan of a cycle chooses, with squared magnitudes in the place of losses."""
    rules = settings.plan.model_copy(update={"required_confidence": 0.0, "allowed_loss_increase": None})
    known = np.isfinite(scores)
    evidence = replace(
        Evidence.unmeasured(anatomy.digest, anatomy.num_units),
        screen=np.where(known, scores / max(float(scores[known].max(initial=0.0)), 1e-30), np.nan),
        loss_increase=np.where(known, scores**2, np.nan),
        confidence=np.where(known, 0.0, np.nan),
    )
    whole = Allowance(target.cost, target.fraction, 1.0, settings.schedule.levels, "once", "asked for")
    every = np.ones(anatomy.num_units, np.bool_)
    return make_plan(anatomy, every, evidence, whole, settings.model_copy(update={"plan": rules})).keep


def _alike(anatomy: Anatomy, scores: FloatArray, settings: Settings, target: Target) -> BoolArray:
    """The same share of every layer, in whole units, the same number in layers that are alike."""
    model = Origin.of(anatomy).model(anatomy, target.cost)
    lowest = floors(anatomy, settings, Origin.of(anatomy))
    whole = model.total(np.ones(anatomy.num_units, np.bool_))
    keep = np.ones(anatomy.num_units, np.bool_)
    steps = step_sizes(anatomy, settings.plan.round_to)
    for share in np.linspace(0.0, 1.0, _STEPS + 1)[1:]:
        if 1 - model.total(keep) / whole >= target.fraction:
            break
        keep = _with_share(anatomy, scores, lowest, float(share), steps)
    return keep


def _with_share(
    anatomy: Anatomy, scores: FloatArray, lowest: IntArray, share: float, steps: IntArray
) -> BoolArray:
    """The mask that removes `share` of what each layer may lose."""
    keep = np.ones(anatomy.num_units, np.bool_)
    for groups in alike(anatomy):
        spans = [anatomy.unit_slice(number) for number in groups]
        if any(not np.isfinite(scores[span]).all() for span in spans):
            continue
        width, floor = anatomy.groups[groups[0]].width, int(max(lowest[number] for number in groups))
        left = width - int(share * (width - floor) + 1e-9)
        step = int(steps[groups[0]])
        left = min(-(-left // step) * step, width)
        for span in spans:
            order = np.argsort(scores[span], kind="stable")
            keep[span.start + order[: width - left]] = False
    return keep


def alike(anatomy: Anatomy) -> list[list[int]]:
    """Groups by likeness: the same width, and names that differ in numbers only (`layers.3.mlp`)."""
    found: dict[tuple[str, str, int], list[int]] = {}
    for number, group in enumerate(anatomy.groups):
        key = (re.sub(r"(?<![^.])\d+(?![^.])", "*", group.name), group.kind.value, group.width)
        found.setdefault(key, []).append(number)
    return list(found.values())
