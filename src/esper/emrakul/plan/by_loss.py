"""A choice by measurement: the units whose loss is least when all that read them make up for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.batches import HeldOut
from esper.cost import Origin
from esper.elesh import Bench, Curve, Evidence, OpenCase, Tier
from esper.emrakul.plan.candidates import kinds_allowed, lowest_counts
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.plan import Plan
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation, alike
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings, Target
from esper.errors import ConfigError
from esper.urabrask import joined

STEP_FRACTION = 0.1
"""Largest share of the cost that goes between two looks: what is left then takes over for what went."""


@dataclass(frozen=True, eq=False)
class MeasuredChoice:
    """Units to keep, shape [units], the tensors that make up for the others, and the plans that led there."""

    keep: BoolArray
    state: Mapping[str, Tensor]
    plans: tuple[Plan, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the last step."""
        return self.plans[-1].notes


def choose_by_loss(
    opened: OpenCase,
    held_out: HeldOut,
    settings: Settings,
    *,
    allowed: BoolArray | None = None,
    homogeneous: bool = False,
    told: Callable[[float], None] = lambda _: None,
) -> MeasuredChoice:
    """Removes units in steps until the target is met; after each step readers are reconstructed.

    Args:
        opened: the network.
        held_out: its calibration batches are used.
        settings: target, floors, levels and rounding.
        allowed: units that may go, shape [units]; None: all.
        homogeneous: leave the same width in layers that are alike (`layers.0.mlp`, `layers.1.mlp`).
        told: hears after every group which share of the work is done.

    Raises:
        ConfigError: there is no target, or too few batches.
    """
    target = settings.target
    if target is None:
        raise ConfigError("A choice by loss needs a target. Give a share to remove, for example flops=0.2.")
    settings = _decided(settings, target)
    # Batches by turns: readers learn from one half and are judged on the other.
    fitted, judged = (joined(opened.twin, held_out.calibration[start::2]) for start in (0, 1))
    if not judged:
        raise ConfigError("A choice by loss needs two batches or more to calibrate on: give more samples.")
    every = joined(opened.twin, held_out.calibration)
    origin, plans = Origin.of(opened.anatomy), []
    # At least two looks, so that the second can correct the first.
    steps = max(2, int(np.ceil(target.fraction / STEP_FRACTION)))
    for step, goal in enumerate(np.linspace(0.0, target.fraction, steps + 1)[1:]):
        bench = Bench(opened, fitted, judged, settings.recovery.reconstruct)
        whole = replace(Allowance.at_once(target, settings.schedule.levels), goal_fraction=float(goal))
        situation = Situation(opened.anatomy, opened.keep, origin, allowed)
        curves = {}
        spans = _removable(situation, whole, settings, allowed)
        for number, (group, removable) in enumerate(spans.items(), start=1):
            curves[group] = bench.curve(group, removable)
            told((step + number / len(spans)) / steps)
        classes = alike(opened.anatomy) if homogeneous else [[group] for group in curves]
        evidence = _evidence(opened.anatomy, curves, classes, len(bench.judged))
        # Curves are measured with all that goes at once, so a gain is one.
        plan = make_plan(situation, evidence, whole, settings, costs=evidence.loss_increase)
        plans.append(plan)
        keep = _leveled(plan.keep, curves, classes)
        # What goes is made up for on all batches, and the next step begins there.
        everything = Bench(opened, every, every, settings.recovery.reconstruct)
        opened = OpenCase(opened.twin, opened.anatomy, everything.without(keep), keep)
    return MeasuredChoice(opened.keep, opened.state, tuple(plans))


def _decided(settings: Settings, target: Target) -> Settings:
    """Losses of a curve are measured together, so they need no margin, and layers no narrow floor."""
    rules = settings.plan.model_copy(update={"required_confidence": 0.0, "interaction_margin": 0.0})
    floor = settings.floors.min_keep_fraction
    least = settings.floors.model_copy(
        update={"min_keep_fraction": (1 - target.fraction) / 2 if floor is None else floor}
    )
    return settings.model_copy(update={"plan": rules, "floors": least})


def _removable(
    situation: Situation, whole: Allowance, settings: Settings, allowed: BoolArray | None
) -> dict[int, int]:
    """How many units may still go from every group from which some may, by its number."""
    anatomy, kept = situation.anatomy, situation.counts
    may_go = kinds_allowed(anatomy, whole) & (True if allowed is None else allowed)
    lowest = lowest_counts(anatomy, kept, floors(situation, settings), settings.plan.round_to)
    return {
        group: int(kept[group] - lowest[group])
        for group in range(len(anatomy.groups))
        if kept[group] > lowest[group] and may_go[anatomy.unit_slice(group)].all()
    }


def _evidence(
    anatomy: Anatomy, curves: Mapping[int, Curve], classes: Sequence[Sequence[int]], samples: int
) -> Evidence:
    """What each unit adds to the loss; the n-th units of groups of one class add the same."""
    evidence = Evidence.unmeasured(anatomy.digest, anatomy.num_units)
    for groups in classes:
        if not all(group in curves for group in groups):
            continue
        # [units that may go]: the n-th to go costs the same in all groups of a class.
        each = np.mean([curves[group].per_unit() for group in groups], axis=0)
        for group in groups:
            units = curves[group].units
            evidence.loss_increase[units] = each
            evidence.confidence[units] = 1.0
            evidence.samples[units] = samples
    return replace(evidence, tier=Tier.ABLATION)


def _leveled(keep: BoolArray, curves: Mapping[int, Curve], classes: Sequence[Sequence[int]]) -> BoolArray:
    """The same mask, with as many units gone from every group of a class as from the one that loses most."""
    left = keep.copy()
    for groups in classes:
        if all(group in curves for group in groups):
            most = max(int((~keep[curves[group].units]).sum()) for group in groups)
            for group in groups:
                left[curves[group].units[:most]] = False
    return left
