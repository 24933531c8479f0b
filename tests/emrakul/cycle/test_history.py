from __future__ import annotations

import json

from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.history import MAX_RECORDS, CycleRecord, extended
from esper.errors import AnalysisError
from esper.leyline import decode, encode
from esper.urabrask import Decision
from tests.emrakul.cycle.laboratory import Laboratory


def test_every_cycle_that_was_due_is_remembered_in_short() -> None:
    lab = Laboratory(decisions=[Decision.NO_GO])
    coordinator = lab.coordinator()
    assert lab.run(coordinator, epoch=1).plan is None  # before the ramp: nothing was due
    accepted = lab.run(coordinator, epoch=5)
    lab.error = AnalysisError("worker 3 died")
    lab.run(coordinator, epoch=6)
    first, second = coordinator.state.history
    assert accepted.plan is not None
    assert (first.epoch, first.status, first.offers) == (5, "accepted", 2)
    assert (first.plan_id, first.units) == (accepted.plan.id, accepted.plan.units.size)
    assert first.finalists > first.units
    assert first.removed_after == accepted.plan.removed_after
    assert (second.epoch, second.status, second.plan_id) == (6, "failed", None)
    assert second.reason == "AnalysisError: worker 3 died"


def test_the_history_is_part_of_what_a_checkpoint_holds() -> None:
    lab = Laboratory()
    coordinator = lab.coordinator()
    lab.run(coordinator)
    data = json.loads(json.dumps(encode(coordinator.state), allow_nan=False))
    assert decode(CoordinatorState, data) == coordinator.state
    del data["history"]  # as older runs have it
    assert decode(CoordinatorState, data).history == ()


def test_the_oldest_records_go_first() -> None:
    lab = Laboratory()
    outcome = lab.run(lab.coordinator())
    history = tuple(CycleRecord(str(n), n, "", "", "") for n in range(MAX_RECORDS))
    longer = extended(history, outcome)
    assert len(longer) == MAX_RECORDS
    assert longer[0].epoch == 1
    assert longer[-1].key == str(outcome.key)
