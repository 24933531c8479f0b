"""When pruning happens and how it ramps up: the stages of the original design, or a ramp to a target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from esper.leyline import Level
from esper.settings import Count, Fraction, OpenFraction, PositiveCount, Section


class Stage(Section):
    """One stretch of a staged schedule."""

    name: str
    """What people call it."""

    epochs: PositiveCount
    """How long it lasts."""

    cumulative_fraction: Fraction = 0.0
    """Most that may be gone at its end."""

    cycle_fraction: Fraction = 0.0
    """Most that one cycle may remove."""

    levels: tuple[Level, ...] = ()
    """What may be removed; nothing: watch only."""


SPEC_STAGES = (
    Stage(name="preparation", epochs=30),
    Stage(
        name="conservative", epochs=30, cumulative_fraction=0.05, cycle_fraction=0.01, levels=(Level.CHANNEL,)
    ),
    Stage(
        name="moderate",
        epochs=30,
        cumulative_fraction=0.10,
        cycle_fraction=0.03,
        levels=(Level.CHANNEL, Level.HEAD),
    ),
    Stage(
        name="aggressive",
        epochs=30,
        cumulative_fraction=0.20,
        cycle_fraction=0.05,
        levels=(Level.CHANNEL, Level.HEAD, Level.LAYER),
    ),
    Stage(name="validation", epochs=30),
)
"""Preparation to validation. Source: spec 002, "Progressive Safety Schedule"."""


class ScheduleSettings(Section):
    """When pruning happens and how it ramps up."""

    shape: Literal["polynomial", "exponential", "linear"] = "polynomial"
    """How progress rises over a ramp: fast first and then slower (polynomial, exponential), or evenly."""

    power: Annotated[float, Field(ge=1.0)] = 3.0
    """Power of the polynomial shape; 3 is the cubic ramp."""

    rate: Annotated[float, Field(gt=0.0)] = 3.0
    """Rate of the exponential shape; larger is steeper at the start."""

    start_fraction: Fraction = 0.2
    """Share of the planned epochs at which a target's ramp starts."""

    end_fraction: Fraction = 0.7
    """Share of the planned epochs at which a target is due."""

    start_epoch: PositiveCount | None = None
    """First epoch that may remove something, instead of `start_fraction`."""

    end_epoch: PositiveCount | None = None
    """Epoch at which the target is due, instead of `end_fraction`."""

    assumed_epochs: PositiveCount = 8
    """Epochs that are planned for where their number is unknown and no learning-rate schedule tells it; a run
    that goes on for longer is planned for as half as long again as it has lasted."""

    quiet_fraction: Fraction = 0.1
    """Last share of the planned epochs in which nothing more is removed, so that the network can recover."""

    levels: tuple[Level, ...] = (Level.CHANNEL, Level.HEAD)
    """What a target may remove. With `"layer"` also whole residual layers, at most one in a cycle."""

    max_step_fraction: Fraction = 0.25
    """Most that one cycle may remove on the way to a target, unless so few more fit into the run that the
    target needs larger steps."""

    max_sure_fraction: Fraction = 1.0
    """Most that one cycle may remove on the way to a target where few steps are left and it surely costs no
    more than it may (the whole confidence interval is within the limit): what goes early has longer to heal.
    0: never more than the scheduled step."""

    min_learned_fraction: Fraction = 0.05
    """Share of the mean loss that has to rest on which target belongs to which input before the first mask of
    the way to a target; so long it waits, as long as two masks will still fit. 0: it waits for nothing."""

    max_steps: PositiveCount = 8
    """Steps that the way to a target is made of at most: smaller ones would not be worth an analysis."""

    overshoot_fraction: Fraction = 0.02
    """How far beyond its goal a step towards a target may go, because units come in whole pieces."""

    stages: tuple[Stage, ...] = SPEC_STAGES
    """The stages of `staged`, in order; after the last one nothing more is removed."""

    scale_stages: bool = False
    """Stretch the stages to the planned number of epochs where it is known."""

    backoff: OpenFraction = 0.5
    """Factor on the next step after a plan was rejected or rolled back; an accepted plan undoes one."""

    min_pace: OpenFraction = 0.125
    """Smallest step that rejections can lead to, as a share of the scheduled one."""

    max_rest_epochs: Count = 8
    """Most epochs without an analysis after a refusal: 1, 2, 4 and so on until a plan has proved itself."""
