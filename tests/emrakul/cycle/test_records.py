"""Results that were stored beside a checkpoint: found again by their key, also by another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from esper.checkpoint import CheckpointRef, CheckpointStore, FaultyStorage
from esper.elesh import OfflineAnalyst
from esper.emrakul.cycle.commit import CycleEnd
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.cycle.records import recall_from
from esper.emrakul.plan import Situation
from esper.leyline import decode, encode
from esper.nissa import acts
from esper.urabrask import RetentionLimits
from esper.urabrask import Settings as ValidationSettings
from esper.workers import InlineHandle, InlinePool, WorkerHealth, WorkerTask
from tests.checkpoint.runs import flip
from tests.elesh.cases import RING, Saved, saved
from tests.elesh.test_analyst import analyst
from tests.emrakul.cycle.test_runner import LENIENT, runner_of

STRICT = ValidationSettings(limits=RetentionLimits.model_construct(channel=-1.0), min_retention=1.0)


@dataclass
class CountingPool:
    """Runs tasks in this process and counts them."""

    tasks: int = 0
    num_workers: int = 1

    def submit(self, task: WorkerTask) -> InlineHandle:
        self.tasks += 1
        return InlinePool().submit(task)

    def health(self) -> tuple[WorkerHealth, ...]:
        return ()

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Saved]:
    made = saved(tmp_path, steps=200)
    yield made
    made.store.close()


def decided(
    made: Saved, validation: ValidationSettings, store: CheckpointStore | None = None
) -> tuple[CycleEnd, int]:
    """One cycle by a coordinator that knows nothing yet, and how many tasks it took."""
    pool = CountingPool()

    def eyes(_: CheckpointRef) -> OfflineAnalyst:
        return replace(analyst(made, pool), validation=validation)

    runner = runner_of(store or made.store)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), eyes)
    decision = runner.collect(60.0)
    runner.close()
    assert decision is not None
    assert decision.outcome is not None
    return decision, pool.tasks


@pytest.mark.parametrize(
    ("validation", "status"),
    [(STRICT, CycleStatus.REJECTED), (LENIENT, CycleStatus.ACCEPTED)],
    ids=["no-go", "go"],
)
def test_the_same_request_gets_the_stored_result_and_measures_nothing(
    made: Saved, validation: ValidationSettings, status: CycleStatus
) -> None:
    first, asked = decided(made, validation)
    again, asked_again = decided(made, validation)
    assert first.outcome is not None
    assert again.outcome is not None
    assert first.outcome.status is status
    assert asked > 0
    assert asked_again == 0
    assert encode(again.outcome) == encode(first.outcome)
    assert again.state == first.state
    assert (again.mask is None) == (first.mask is None)
    if first.mask is not None and again.mask is not None:
        np.testing.assert_array_equal(again.mask.keep, first.mask.keep)


def test_a_request_with_other_limits_is_another_request(made: Saved) -> None:
    decided(made, STRICT)
    other, asked = decided(made, LENIENT)
    assert asked > 0
    assert other.mask is not None


def test_the_record_holds_why_every_finalist_goes_or_stays(made: Saved) -> None:
    first, _ = decided(made, STRICT)
    assert first.outcome is not None
    known = recall_from(made.store, made.checkpoint)(first.outcome.key)
    assert known is not None
    rationale = known[0].rationale
    assert rationale is not None
    rows = rationale.rows()
    assert {row["reason"] for row in rows} >= {"chosen", "shrunk"}
    assert all(row["loss_increase"] is not None for row in rows)
    assert {row["tier"] for row in rows} == {"ablation"}


def test_a_record_keeps_no_checkpoint_alive(made: Saved) -> None:
    decided(made, STRICT)
    assert made.store.pins() == {}


def test_a_damaged_record_is_not_found(made: Saved) -> None:
    first, _ = decided(made, STRICT)
    (attached,) = made.store.attachments(made.checkpoint).found
    flip(attached.file("decision.pb").path, 400)
    assert first.outcome is not None
    assert recall_from(made.store, made.checkpoint)(first.outcome.key) is None


def test_a_record_that_cannot_be_stored_is_told_and_changes_no_decision(made: Saved) -> None:
    made.store.close()
    probe = FaultyStorage(10**9)
    with CheckpointStore(made.store.run_dir, keyring=RING, model="net", storage=probe):
        calls = len(probe.calls)
    full = FaultyStorage(calls + 3, "ENOSPC", lasting=True)
    with CheckpointStore(made.store.run_dir, keyring=RING, model="net", storage=full) as store:
        decision, _ = decided(made, STRICT, store)
        assert store.attachments(made.checkpoint).found == ()
    assert full.fired
    assert "The record of it was not stored" in decision.reason
    assert decision.outcome is not None
    assert decision.outcome.status is CycleStatus.REJECTED


def told(made: Saved) -> list[acts.Decided]:
    return made.store.audit.told(acts.Decided)


def test_a_cycle_is_told_in_full_before_anything_is_committed(made: Saved) -> None:
    first, _ = decided(made, LENIENT)
    decided(made, LENIENT)  # recalled, so there is nothing new to tell
    (kept,) = told(made)
    assert first.outcome is not None
    assert kept.outcome == encode(first.outcome)
    assert (kept.status, kept.settings_id) == ("accepted", "settings")
    (mask,) = made.store.attachments(made.checkpoint).found
    assert mask.manifest.audit is not None
    assert mask.manifest.audit.number == 1


def test_a_decision_that_cannot_be_written_down_is_not_committed(made: Saved) -> None:
    made.store.audit.close()
    runner = runner_of(made.store)
    runner.start(
        lambda: made.checkpoint, 2, Situation.whole(made.anatomy), lambda _: analyst(made, CountingPool())
    )
    end = runner.collect(60.0)
    runner.close()
    assert end is not None
    assert end.mask is None
    assert "not written down" in end.reason
    assert not made.store.attachments(made.checkpoint).found


def test_a_cycle_that_failed_is_told_with_its_traceback_and_recalled_by_nobody(made: Saved) -> None:
    def eyes(_: CheckpointRef) -> OfflineAnalyst:
        found = analyst(made, CountingPool())
        return replace(found, case=replace(found.case, twin=found.case.model))

    runner = runner_of(made.store)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), eyes)
    decision = runner.collect(60.0)
    runner.close()
    assert decision is not None
    (kept,) = told(made)
    outcome = decode(CycleOutcome, kept.outcome)
    assert outcome.status is CycleStatus.FAILED
    assert "Traceback" in str(outcome.error)
    assert recall_from(made.store, made.checkpoint)(outcome.key) is None
