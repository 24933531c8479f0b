"""The timetable has the lines that were agreed, and no others."""

from __future__ import annotations

import itertools

import pytest

from esper.errors import IllegalTransitionError
from esper.kasmina.seeds.lifecycle import ALIVE, FORWARD, TIMETABLE, SeedEvent, departure
from esper.leyline import SeedLifecycleGate as Gate
from esper.leyline import SeedLifecycleStage as Stage

AGREED = {
    ("UNKNOWN", "DORMANT"): None,
    ("DORMANT", "GERMINATED"): "G0_SANITY",
    ("DORMANT", "TERMINATED"): None,
    ("GERMINATED", "TRAINING"): None,
    ("GERMINATED", "CULLED"): None,
    ("TRAINING", "BLENDING"): "G1_GRADIENT_HEALTH",
    ("TRAINING", "CULLED"): None,
    ("BLENDING", "SHADOWING"): "G2_STABILITY",
    ("BLENDING", "CULLED"): None,
    ("SHADOWING", "PROBATIONARY"): "G3_INTERFACE",
    ("SHADOWING", "CULLED"): None,
    ("PROBATIONARY", "FOSSILIZED"): "G4_SYSTEM_IMPACT",
    ("PROBATIONARY", "CULLED"): None,
    ("FOSSILIZED", "TERMINATED"): None,
    ("CULLED", "EMBARGOED"): None,
    ("EMBARGOED", "RESETTING"): None,
    ("RESETTING", "DORMANT"): "G5_RESET",
}


def test_every_line_goes_where_and_through_what_was_agreed() -> None:
    lines = {
        (stage.name, line.to.name): None if line.through is None else line.through.name
        for (stage, _), line in TIMETABLE.items()
    }
    assert lines == AGREED
    assert len(TIMETABLE) == len(AGREED)


def test_numbers_are_those_of_messages() -> None:
    assert [stage.name for stage in Stage] == [
        *("UNKNOWN", "DORMANT", "GERMINATED", "TRAINING", "BLENDING", "SHADOWING"),
        *("PROBATIONARY", "FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED"),
    ]
    assert [int(stage) for stage in Stage] == list(range(12))
    assert [int(gate) for gate in Gate] == list(range(7))


@pytest.mark.parametrize(("stage", "event"), list(itertools.product(Stage, SeedEvent)))
def test_whatever_has_no_line_raises_and_says_what_would_be_possible(stage: Stage, event: SeedEvent) -> None:
    if (stage, event) in TIMETABLE:
        assert departure(stage, event, "a.b") is TIMETABLE[stage, event]
        return
    with pytest.raises(IllegalTransitionError, match=rf"'a\.b' is {stage.name}.*possible are"):
        departure(stage, event, "a.b")


def test_all_goes_well_from_the_first_stage_to_the_last_and_back_from_a_cull() -> None:
    stage, way = Stage.UNKNOWN, []
    while stage in FORWARD and stage not in way:
        way.append(stage)
        stage = TIMETABLE[stage, FORWARD[stage]].to
    assert stage is Stage.FOSSILIZED
    assert {s for s in Stage if (s, SeedEvent.CULL) in TIMETABLE} == ALIVE - {Stage.CULLED}
    stage = Stage.CULLED
    for _ in range(3):
        stage = TIMETABLE[stage, FORWARD[stage]].to
    assert stage is Stage.DORMANT
