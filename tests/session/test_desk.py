"""Commands from other processes: believed or not, done once, where an epoch ends, and told by the audit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from esper.checkpoint import KeyRing, open_key_ring
from esper.errors import BusError, CheckpointError
from esper.leyline.wire import FolderCarrier, messages
from esper.nissa import ListSink, acts, mail_events
from esper.runs import Asker
from tests.session.growers import CULLED, KEPT
from tests.session.growers import GrowingTraining as Growing
from tests.session.runs import Training

WAITING, DONE, REFUSED = (
    messages.COMMAND_STATUS_WAITING,
    messages.COMMAND_STATUS_DONE,
    messages.COMMAND_STATUS_REFUSED,
)
ROLL_BACK, REPORT = messages.ADAPTATION_ACTION_ROLL_BACK, messages.ADAPTATION_ACTION_REPORT


class ByHand(Growing):
    plan = {}  # noqa: RUF012


@contextmanager
def training_in(path: Path) -> Iterator[tuple[Training, ListSink]]:
    training, sink = ByHand(path), ListSink()
    training.session.log.telling.sinks.append(sink)
    try:
        yield training, sink
    finally:
        training.session.detach()


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Training, ListSink]]:
    """A run that trains and has ended an epoch; every test leaves it without seeds."""
    run = tmp_path_factory.mktemp("living")
    with training_in(run) as (training, sink):
        training.epoch()
        yield run, training, sink


Living = tuple[Path, Training, ListSink]


def wish(action: messages.AdaptationAction, **more: Any) -> messages.AdaptationCommand:
    return messages.AdaptationCommand(version=1, action=action, by="me@here", **more)


def asker(run: Path) -> Asker:
    return Asker(run, open_key_ring(run))


def statuses(one: Asker, command: messages.AdaptationCommand) -> list[int]:
    return [report.status for report in one.answers(command)]


def test_a_run_tells_how_it_stands_while_it_makes_steps(living: Living) -> None:
    run, training, _ = living
    with asker(run) as one:
        assert training.session.grow(KEPT, "mlp", width=6).passed
        one.send(command := wish(REPORT))
        training.session._desk._next_look = 0.0  # as if a second had passed
        epoch, before = training.session.epoch, training.session.step
        training.step(*next(training.batches()))
        (report,) = one.answers(command)
        state = report.state
        assert (report.status, state.epoch, state.step) == (DONE, epoch, before + 1)
        assert state.run == training.session.parts.saving.store.identity.id
        assert state.metrics["accuracy"] == pytest.approx(training.session.log.epochs[-1].metrics["accuracy"])
        assert (state.phase, state.workers) == (messages.PRUNING_PHASE_OFF, messages.HEALTH_STATUS_UNKNOWN)
        assert [(seed.slot, seed.stage) for seed in state.seeds] == [(KEPT, messages.SEED_STAGE_TRAINING)]
        assert state.parameters == training.session.parts.network.anatomy.parameters()
        assert state.checkpoint.version == 1
    training.session.growing.cull(KEPT)


def test_a_command_is_done_once_where_the_epoch_ends_and_the_audit_tells_who_asked(tmp_path: Path) -> None:
    with training_in(tmp_path) as (training, sink), asker(tmp_path) as one:
        training.epoch()
        training.epoch()
        command = wish(ROLL_BACK)
        command.rollback.version, command.rollback.to_step = 1, 6
        one.send(command)
        training.session._desk.look()
        assert statuses(one, command) == [WAITING]
        assert training.session.epoch == 2
        one.send(command)  # again, as if no answer had come
        training.epoch()
        assert statuses(one, command) == [WAITING, DONE]
        assert (training.session.epoch, training.session.step) == (1, 6)
        one.send(command)  # and once more, when it is done
        training.epoch()
        assert statuses(one, command) == [DONE]
        assert training.session.epoch == 2
        told = training.session.parts.saving.store.audit.told(acts.Commanded)
        assert [(act.who, act.what) for act in told] == [("me@here", "roll back, to step 6")]
        assert [type(event) for event in sink.events].count(acts.WentBack) == 1


def test_what_the_run_cannot_do_is_refused_with_the_reason_and_training_goes_on(living: Living) -> None:
    run, training, _ = living
    epoch = training.session.epoch
    with asker(run) as one:
        commands = [
            (wish(messages.ADAPTATION_ACTION_VETO, reason="looks odd\x1b[2J\n"), "no mask on trial"),
            (wish(messages.ADAPTATION_ACTION_CULL, slot="4"), "4"),
            (wish(messages.ADAPTATION_ACTION_GROW, slot="nowhere"), "nowhere"),
            (wish(messages.ADAPTATION_ACTION_UNKNOWN), "does not know action 0"),
        ]
        for command, why in commands:
            one.send(command)
            training.epoch()
            answer = one.answers(command)[-1]
            assert answer.status == REFUSED
            assert why in answer.text
        assert training.session.epoch == epoch + len(commands)
        told = [act.what for act in training.session.parts.saving.store.audit.told(acts.Commanded)]
        assert "veto, looks odd [2J " in told


def test_whoever_has_no_key_or_only_copies_gets_nothing_done_and_is_told_of_once(living: Living) -> None:
    run, training, sink = living
    with asker(run) as one:
        one.send(command := wish(messages.ADAPTATION_ACTION_GROW, slot=CULLED, blueprint="mlp"))
        box = run / "mail" / "trainer"
        (genuine,) = (path.read_bytes() for path in box.iterdir())
        attacker = FolderCarrier(run / "mail")
        forged = genuine.replace(b"mlp", b"xyz")
        for raw in (genuine, genuine, forged, forged, b"", b"noise"):
            attacker.put("trainer", raw)
        training.epoch()
        assert statuses(one, command) == [WAITING, DONE]
        assert training.session.growing.slots[CULLED].track.blueprint == "mlp"
        assert not list(box.iterdir())
        told = [event.why for event in sink.events if isinstance(event, mail_events.MailRefused)]
        assert len(told) == 3, told  # one of each kind
    training.session.growing.cull(CULLED)


def test_nothing_that_was_left_before_a_restart_is_done_after_it(tmp_path: Path) -> None:
    run, copy = tmp_path / "run", tmp_path / "mail"
    with training_in(run) as (training, _), asker(run) as one:
        training.epoch()
        one.send(wish(ROLL_BACK))
        shutil.copytree(run / "mail", copy)
        training.session.detach()
        assert not (run / "mail" / "boot.json").exists()
    with pytest.raises(BusError, match="Nobody trains in"):
        asker(run)
    shutil.copytree(copy, run / "mail", dirs_exist_ok=True)  # as a kill leaves it
    with training_in(run) as (training, sink):
        assert not list((run / "mail" / "trainer").iterdir())
        for raw in (path.read_bytes() for path in (copy / "trainer").iterdir()):
            FolderCarrier(run / "mail").put("trainer", raw)
        training.epoch()
        assert training.session.epoch == 2
        assert [event.why for event in sink.events if isinstance(event, mail_events.MailRefused)] == [
            "An envelope's MAC does not verify: it was altered, or is of another boot."
        ]
    assert not (run / "mail").exists()


def test_what_waits_when_the_run_ends_is_refused_and_nobody_is_there_to_be_asked(tmp_path: Path) -> None:
    with training_in(tmp_path) as (training, _):
        with asker(tmp_path) as one:
            one.send(command := wish(ROLL_BACK))
            training.session._desk.look()
            training.session.detach()
            assert statuses(one, command) == [WAITING, REFUSED]
            with pytest.raises(BusError, match=r"has not answered in 0\.2 s"):
                one.ask(wish(REPORT), 0.2)
        assert not (tmp_path / "mail").exists()


def test_a_folder_that_leads_elsewhere_is_not_used_and_training_goes_on(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (elsewhere / "boot.json").write_text("mine")
    (run / "mail").symlink_to(elsewhere)
    with training_in(run) as (training, _):
        training.epoch()
        assert any("No other process can ask this run" in note for note in training.session.log.notes)
    assert (elsewhere / "boot.json").read_text() == "mine"


def test_after_a_rotation_an_asker_signs_with_the_key_that_the_run_knows(living: Living) -> None:
    run, training, _ = living
    ring = open_key_ring(run)
    added = ring.add()
    rotated = added.promote(added.keys[-1].id)
    with Asker(run, rotated) as one:
        one.send(command := wish(REPORT))
        training.session._desk.look()
        assert statuses(one, command) == [DONE]
    for strange in (rotated.disable(ring.primary.id), KeyRing.fresh()):
        with pytest.raises(CheckpointError, match="was not written by this run"):
            Asker(run, strange)


def as_a_kill_leaves(run: Path, to: Path) -> Path:
    """A copy of a run that trains."""
    copy = Path(shutil.copytree(run, to))
    (copy / "checkpoints" / ".writer.json").unlink()  # names this process, which lives
    return copy


def test_what_no_checkpoint_holds_is_told_as_lost_and_what_one_holds_is_not_done_again(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    command = wish(messages.ADAPTATION_ACTION_GROW, slot=KEPT, blueprint="mlp")
    with training_in(run) as (training, _), asker(run) as one:
        training.epoch()
        one.send(command)
        training.epoch()
        assert statuses(one, command) == [WAITING, DONE]
        training.session.parts.saving.settle()
        early = as_a_kill_leaves(run, tmp_path / "early")
        training.epoch()
        training.session.parts.saving.settle()
        late = as_a_kill_leaves(run, tmp_path / "late")
    for copy, status, stage in ((early, REFUSED, None), (late, DONE, "BLENDING")):
        with training_in(copy) as (resumed, sink), asker(copy) as one:
            assert resumed.session.growing.slots.get(KEPT) is None or stage is not None
            one.send(command)
            resumed.session._desk.look()
            (report,) = one.answers(command)
            assert report.status == status
            lost = [event.why for event in sink.events if isinstance(event, mail_events.CommandLost)]
            assert lost == ([report.text] if status == REFUSED else [])
            resumed.epoch()
            assert len(resumed.session.parts.saving.store.audit.told(acts.Commanded)) == 1
            anew = wish(messages.ADAPTATION_ACTION_GROW, slot=KEPT, blueprint="mlp")
            one.send(anew)
            resumed.epoch()
            assert (statuses(one, anew)[-1] == DONE) == (status == REFUSED)
