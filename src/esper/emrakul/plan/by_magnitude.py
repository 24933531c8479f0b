"""A choice without any measurement: the units with the smallest weights, under the same floors as a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import kinds_allowed, step_sizes
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation, alike
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
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
    # What may not go counts as unmeasured.
    if allowed is not None:
        scores = np.where(allowed, scores, np.nan)
    whole = Allowance.at_once(settings.target, settings.schedule.levels)
    scores = np.where(kinds_allowed(anatomy, whole), scores, np.nan)
    situation = replace(Situation.whole(anatomy), may_go=allowed)
    choose = _alike if homogeneous else _freely
    keep = choose(situation, scores, settings, whole)
    removed = situation.under(keep).removed_fraction(whole.cost)
    notes = ["Chosen by the size of weights; what it costs in quality was not measured."]
    if removed < settings.target.fraction - 0.01:
        notes.append(
            f"{removed:.1%} of the {settings.target.cost} can go instead of {settings.target.fraction:.1%}."
        )
    return Choice(keep, removed, tuple(notes))


def _freely(situation: Situation, scores: FloatArray, settings: Settings, whole: Allowance) -> BoolArray:
    """As a plan of a cycle chooses, with squared magnitudes in the place of losses."""
    # Squared scores stand for losses; no confidence is asked of them.
    rules = settings.plan.model_copy(update={"required_confidence": 0.0, "allowed_loss_increase": None})
    known, anatomy = np.isfinite(scores), situation.anatomy
    evidence = replace(
        Evidence.unmeasured(anatomy.digest, anatomy.num_units),
        screen=np.where(known, scores / max(float(scores[known].max(initial=0.0)), 1e-30), np.nan),
        loss_increase=np.where(known, scores**2, np.nan),
        confidence=np.where(known, 0.0, np.nan),
    )
    return make_plan(situation, evidence, whole, settings.model_copy(update={"plan": rules})).keep


def _alike(situation: Situation, scores: FloatArray, settings: Settings, whole: Allowance) -> BoolArray:
    """The same share of every layer, in whole units, the same number in layers that are alike."""
    lowest, keep = floors(situation, settings), situation.keep
    steps = step_sizes(situation.anatomy, settings.plan.round_to)
    # The smallest share, in 64ths of what layers may lose, that reaches the target.
    for share in np.linspace(0.0, 1.0, _STEPS + 1)[1:]:
        if situation.under(keep).removed_fraction(whole.cost) >= whole.goal_fraction:
            break
        keep = _with_share(situation.anatomy, scores, lowest, float(share), steps)
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
        # What stays is rounded up to whole steps, at most to the full width.
        left = width - int(share * (width - floor) + 1e-9)
        step = int(steps[groups[0]])
        left = min(-(-left // step) * step, width)
        for span in spans:
            order = np.argsort(scores[span], kind="stable")
            keep[span.start + order[: width - left]] = False
    return keep
