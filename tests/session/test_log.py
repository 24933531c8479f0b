"""The log of a run is the first sink: what it writes down, what it keeps, and who else is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.checkpoint import CheckpointStore, open_key_ring
from esper.leyline import encode
from esper.nissa import ListSink, acts, events, kernel_events, metric_events, seed_events
from esper.report import EpochRow, Mark, SeedRow
from esper.session.log import RunLog


def test_moments_become_marks_and_the_rest_notes(caplog: pytest.LogCaptureFixture) -> None:
    log = RunLog()
    log.tell(events.Refused(2, "No."))
    log.tell(events.MaskWaits("f1"))
    log.tell(acts.Resumed("runs/a", 8, 1, 0, 0, 0, 0.0, "flops", "id", {}))
    log.tell(events.Idle(2, "Nothing."))
    assert log.marks == [Mark(2, "no_go", "Nothing was masked, the plan was refused: No.")]
    assert log.notes == ["A mask waits for an epoch in which f1 is measured and the network is whole."]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == log.notes


def test_a_further_sink_hears_what_the_log_and_the_logger_hear() -> None:
    log, heard = RunLog(), ListSink()
    log.telling.sinks.append(heard)
    log.tell(metric_events.NotFinite(1, "loss", 2.0))
    log.tell(metric_events.NotFinite(2, "loss", 2.0))
    assert [event.line.partition(":")[0] for event in heard.events] == ["epoch 1", "epoch 2"]
    assert len(log.notes) == 1


def test_a_log_that_was_stored_keeps_its_shape_and_goes_on() -> None:
    log = RunLog()
    log.tell(acts.WentBack(1, 8))
    log.tell(events.NotFaster())
    log.tell(seed_events.SeedGerminated(1, "2", "mlp", "DORMANT", "GERMINATED", "It is sound."))
    log.tell(kernel_events.ProgramsMade(1, 3))
    stored = log.state()
    assert stored["marks"][0] == {"epoch": 1, "kind": "rollback", "text": "Went back to step 8 by hand."}
    assert stored["notes"] == [events.NotFaster().text]
    again, heard = RunLog(), ListSink()
    again.telling.sinks.append(heard)
    again.tell(events.PruningOff("No data."))
    again.load(stored)
    assert again.marks == log.marks
    assert again.programs == 3
    assert again.seeds == log.seeds == [SeedRow(1, "2", "mlp", "DORMANT", "GERMINATED", "It is sound.")]
    again.tell(events.NotFaster())  # another process tells its own people, and the note is there already
    assert again.notes == [events.NotFaster().text, "No data."]
    assert heard.events == [events.PruningOff("No data."), events.NotFaster()]


def test_epochs_under_a_mask_that_was_taken_back_are_known_and_those_before_a_cut_are_not() -> None:
    log = RunLog()
    # A mask that goes back, then one that is cut, and a seed that grows.
    for epoch, (masked, parameters) in enumerate(
        [(0, 100), (5, 80), (5, 80), (0, 100), (4, 85), (0, 85), (0, 95)], start=1
    ):
        log.epochs.append(EpochRow(epoch, 10 * epoch, {"accuracy": 0.5}, 1.0, parameters, masked, 1.0))
        assert log.taken_back() == ({2, 3} if epoch >= 4 else set())


def test_a_rollback_from_outside_is_marked_once_and_so_is_one_that_stood_in_a_list_of_its_own() -> None:
    past = acts.Withdrawn(12, 2, 6, 1, ("step-000000012",))
    log = RunLog()
    log.tell(events.Refused(2, "No."))
    log.hear_of([past, past])
    assert [mark.epoch for mark in log.moments()] == [1, 2]
    assert log.moments()[0] == Mark(1, "rollback", past.text)
    older = {"marks": [], "notes": [], "withdrawals": [{**encode(past), "at_seconds": 1.5}]}
    again = RunLog()
    again.load(older)
    again.hear_of([past])
    assert again.marks == [Mark(1, "rollback", past.text)]


def test_what_is_found_at_once_is_written_down_at_once_and_each_is_noted(tmp_path: Path) -> None:
    log = RunLog()
    with CheckpointStore(tmp_path, keyring=open_key_ring(tmp_path, create=True), model="net") as store:
        log.telling.sinks.insert(0, store.audit)
        left = [events.LeftWhole(f"group-{number}", "It is an output.") for number in range(7)]
        log.tell_all(left)
        assert store.audit.commits == 1
        assert store.audit.told(events.LeftWhole) == left
    assert log.notes == [event.text for event in left]


def test_groups_that_stay_for_one_reason_are_told_of_once() -> None:
    told = events.LeftWhole.of({"a.0": "It is an output.", "b": "Nobody knows.", "a.1": "It is an output."})
    assert [event.text for event in told] == [
        "a.0 was left whole: It is an output. (So were 1 more: a.1)",
        "b was left whole: Nobody knows.",
    ]
