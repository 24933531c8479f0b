"""The timetable of a seed: what may happen in which stage, which gate it has to pass, and what is done then.

Read a line as one departure: *in* this stage, *when* this happens, the seed goes *to* that one, *through*
this gate, and this is done. What is not in the table cannot happen, and raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from esper.errors import IllegalTransitionError
from esper.leyline import SeedLifecycleGate as Gate
from esper.leyline import SeedLifecycleStage as Stage


class SeedEvent(StrEnum):
    """What can happen to a seed, or to the slot that it is for."""

    OPEN = "open"
    GERMINATE = "germinate"
    TRAIN = "train"
    BLEND = "blend"
    SHADOW = "shadow"
    PROVE = "prove"
    FOSSILIZE = "fossilize"
    CULL = "cull"
    EMBARGO = "embargo"
    RESET = "reset"
    REOPEN = "reopen"
    TERMINATE = "terminate"


class Action(StrEnum):
    """What a departure does to the network."""

    NOTHING = "nothing"
    LEARN = "learn"
    """It learns in passes of its own."""
    RAMP_UP = "ramp_up"
    """It is in the network, and its share grows."""
    HIDE = "hide"
    """It is out of the network, and only measured."""
    SERVE = "serve"
    """It is in the network with its full share."""
    HAND_OVER = "hand_over"
    """Its parameters are the host's from now on."""
    RAMP_DOWN = "ramp_down"
    """Its share shrinks, and it learns no longer."""
    REMOVE = "remove"
    """Module, parameters, optimizer state and registry entry go."""


class Departure(NamedTuple):
    """One line of the timetable."""

    to: Stage
    through: Gate | None
    action: Action


TIMETABLE: Mapping[tuple[Stage, SeedEvent], Departure] = {
    # in, when                                       to, through, what is done
    (Stage.UNKNOWN, SeedEvent.OPEN): Departure(Stage.DORMANT, None, Action.NOTHING),
    (Stage.DORMANT, SeedEvent.GERMINATE): Departure(Stage.GERMINATED, Gate.G0_SANITY, Action.NOTHING),
    (Stage.DORMANT, SeedEvent.TERMINATE): Departure(Stage.TERMINATED, None, Action.NOTHING),
    (Stage.GERMINATED, SeedEvent.TRAIN): Departure(Stage.TRAINING, None, Action.LEARN),
    (Stage.GERMINATED, SeedEvent.CULL): Departure(Stage.CULLED, None, Action.RAMP_DOWN),
    (Stage.TRAINING, SeedEvent.BLEND): Departure(Stage.BLENDING, Gate.G1_GRADIENT_HEALTH, Action.RAMP_UP),
    (Stage.TRAINING, SeedEvent.CULL): Departure(Stage.CULLED, None, Action.RAMP_DOWN),
    (Stage.BLENDING, SeedEvent.SHADOW): Departure(Stage.SHADOWING, Gate.G2_STABILITY, Action.HIDE),
    (Stage.BLENDING, SeedEvent.CULL): Departure(Stage.CULLED, None, Action.RAMP_DOWN),
    (Stage.SHADOWING, SeedEvent.PROVE): Departure(Stage.PROBATIONARY, Gate.G3_INTERFACE, Action.SERVE),
    (Stage.SHADOWING, SeedEvent.CULL): Departure(Stage.CULLED, None, Action.RAMP_DOWN),
    (Stage.PROBATIONARY, SeedEvent.FOSSILIZE): Departure(
        Stage.FOSSILIZED, Gate.G4_SYSTEM_IMPACT, Action.HAND_OVER
    ),
    (Stage.PROBATIONARY, SeedEvent.CULL): Departure(Stage.CULLED, None, Action.RAMP_DOWN),
    (Stage.FOSSILIZED, SeedEvent.TERMINATE): Departure(Stage.TERMINATED, None, Action.NOTHING),
    (Stage.CULLED, SeedEvent.EMBARGO): Departure(Stage.EMBARGOED, None, Action.REMOVE),
    (Stage.EMBARGOED, SeedEvent.RESET): Departure(Stage.RESETTING, None, Action.NOTHING),
    (Stage.RESETTING, SeedEvent.REOPEN): Departure(Stage.DORMANT, Gate.G5_RESET, Action.NOTHING),
}

FORWARD: Mapping[Stage, SeedEvent] = {
    stage: event for (stage, event) in TIMETABLE if event not in (SeedEvent.CULL, SeedEvent.TERMINATE)
}
"""For every stage what happens next if all goes well."""

GROWS_ONCE = "a place grows once in a run"
"""Why nothing germinates where something has become a part of the network."""

ALIVE = frozenset(
    {Stage.GERMINATED, Stage.TRAINING, Stage.BLENDING, Stage.SHADOWING, Stage.PROBATIONARY, Stage.CULLED}
)
"""Stages in which there is a seed that the host does not own."""


def departure(stage: Stage, event: SeedEvent, path: str) -> Departure:
    """Where the seed at `path` goes from a stage.

    Raises:
        IllegalTransitionError: this cannot happen in that stage.
    """
    if (found := TIMETABLE.get((stage, event))) is None:
        possible = [str(other) for (where, other) in TIMETABLE if where is stage]
        raise IllegalTransitionError(
            f"The slot {path!r} is {stage.name}, and there nothing can {event}{_why(stage, event)}: possible "
            f"are {', '.join(possible) or 'no more changes'}. Nothing was changed."
        )
    return found


def _why(stage: Stage, event: SeedEvent) -> str:
    """What is not plain from the name of a stage."""
    if event is SeedEvent.GERMINATE and stage in (Stage.FOSSILIZED, Stage.TERMINATED):
        return f", because something has grown there already, and {GROWS_ONCE}"
    if event is SeedEvent.CULL and stage is Stage.DORMANT:
        return ", because there is no seed"
    return ""
