"""No command is done twice or answered with what is not so, wherever the process that trains is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from esper.checkpoint import open_key_ring
from esper.errors import CheckpointError
from esper.leyline.wire import messages
from esper.nissa import Event, ListSink, acts, mail_events
from esper.runs import Asker
from esper.session.ledger import MOST, Ledger
from esper.session.log import RunLog
from tests.session.bench import GROW, POINTS, ROLL_BACK, STEPS, Bench, Point, run_all
from tests.session.processes import told_by

DONE, REFUSED, WAITING = (
    messages.COMMAND_STATUS_DONE,
    messages.COMMAND_STATUS_REFUSED,
    messages.COMMAND_STATUS_WAITING,
)
TIMES = 5
E = TypeVar("E", bound=Event)


def wish(action: messages.AdaptationAction, number: int = 0, **more: Any) -> messages.AdaptationCommand:
    key = f"2:{'ab' * 32}:{number:016x}:layer"
    return messages.AdaptationCommand(version=1, action=action, by="me@here", idempotency_key=key, **more)


GROWTH = wish(GROW, slot="layer3")
RETURN = wish(ROLL_BACK, rollback=messages.RollbackRequest(version=1, to_step=STEPS))


def answered(bench: Bench, command: messages.AdaptationCommand) -> list[tuple[int, str]]:
    """What a run says to a command, from its arrival until an epoch has ended."""
    with Asker(bench.store.run_dir, open_key_ring(bench.store.run_dir)) as one:
        one.send(command)
        bench.desk.look()
        bench.end_epoch()
        return [(report.status, report.text) for report in one.answers(command)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs lie that were killed: below the action, the point and the number of each."""
    base = tmp_path_factory.mktemp("killed")
    cases = [
        (base / f"{command.action}-{point}-{time}", point, command.SerializeToString())
        for command, points, times in ((GROWTH, POINTS, TIMES), (RETURN, tuple(OF_RETURN), 1))
        for point in points
        for time in range(times)
    ]
    assert told_by(run_all, cases) == [-signal.SIGKILL] * len(cases)
    return base


NOT_DONE = "It was not done when the run was stopped, which goes on from step 12. Ask anew."
LOST = NOT_DONE.replace("not done", "done, but not held by a checkpoint")
OF_GROWTH: dict[Point, tuple[int, str, list[str]]] = {
    "taken": (DONE, "Grown.", ["layer3"]),
    "written": (REFUSED, NOT_DONE, []),
    "accepted": (REFUSED, NOT_DONE, []),
    "doing": (REFUSED, NOT_DONE.replace("12", "18"), []),
    "done": (REFUSED, NOT_DONE.replace("12", "18"), []),
    "answered": (REFUSED, LOST.replace("12", "18"), []),
    "sent": (REFUSED, LOST.replace("12", "18"), []),
    "saved": (DONE, "Grown.", ["layer3"]),
}


@pytest.mark.parametrize("point", POINTS)
def test_after_a_kill_a_command_that_comes_again_is_answered_by_what_is_so(
    killed: Path, point: Point
) -> None:
    status, text, done = OF_GROWTH[point]
    for time in range(TIMES):
        run = killed / f"{GROW}-{point}-{time}"
        for is_first in (True, False)[
            : 2 if time == 0 else 1
        ]:  # and once more, after a restart without a kill
            with closing(Bench(run)) as bench:
                heard = ListSink()
                bench.log.telling.sinks.append(heard)
                assert answered(bench, GROWTH)[-1] == (status, text)
                assert bench.done == done
                told = [event.why for event in heard.events if isinstance(event, mail_events.CommandLost)]
                assert told == ([text] if is_first and status == REFUSED and point != "taken" else [])
                assert len(bench.store.audit.told(acts.Commanded)) == 1
                bench.end_epoch()  # a checkpoint holds it


WENT = f"Went back to step {STEPS}."
WENT_ON = f"The run went on from step {STEPS}, where it was to go."
OF_RETURN: dict[Point, tuple[int, str, int]] = {
    "doing": (REFUSED, NOT_DONE.replace("12", "18"), 1),
    "done": (DONE, WENT_ON, 1),
    "answered": (DONE, WENT, 1),
    "sent": (DONE, WENT, 1),
}


@pytest.mark.parametrize("point", OF_RETURN)
def test_a_rollback_is_done_as_soon_as_its_run_goes_on_from_there(killed: Path, point: Point) -> None:
    status, text, times = OF_RETURN[point]
    run = killed / f"{ROLL_BACK}-{point}-0"
    for _ in range(2):
        with closing(Bench(run)) as bench:
            assert answered(bench, RETURN)[-1] == (status, text)
            assert len(bench.store.audit.told(acts.WentBack)) == times


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(Bench(tmp_path)) as made:
        made.end_epoch()
        yield made


def test_a_key_is_for_one_wish_and_has_the_form_of_all_keys(bench: Bench) -> None:
    assert [status for status, _ in answered(bench, GROWTH)] == [WAITING, DONE]
    ((status, text),) = answered(bench, wish(GROW, slot="layer4"))
    assert (status, text) == (
        REFUSED,
        f"The key {GROWTH.idempotency_key} was used for another command: grow, layer3.",
    )
    for key in ("", "once", "1:abc:def:planet"):
        command = wish(GROW, slot="layer3")
        command.idempotency_key = key
        with Asker(bench.store.run_dir, open_key_ring(bench.store.run_dir)) as one:
            one._channel.send("trainer", command)
            bench.end_epoch()
            (report,) = one.answers(command)
            assert (report.status, "comes again" in report.text) == (REFUSED, True)
    assert bench.done == ["layer3"]


def test_whoever_sends_it_last_is_answered_also_while_it_waits(bench: Bench) -> None:
    ring = open_key_ring(bench.store.run_dir)
    with Asker(bench.store.run_dir, ring) as first, Asker(bench.store.run_dir, ring) as second:
        for one in (first, second):
            one.send(GROWTH)
            bench.desk.look()
        bench.end_epoch()
        assert [report.status for report in second.answers(GROWTH)] == [WAITING, DONE]
    assert bench.done == ["layer3"]


def test_two_equal_wishes_have_two_keys_that_name_the_newest_checkpoint(bench: Bench) -> None:
    with Asker(bench.store.run_dir, open_key_ring(bench.store.run_dir)) as one:
        command = messages.AdaptationCommand(version=1, action=GROW, slot="a")
        first, second = one.key_for(command), one.key_for(command)
    newest = bench.store.catalog.at(STEPS)
    assert first != second
    assert first.startswith(f"1:{newest.digest}:")


def test_who_waits_while_a_run_is_killed_is_answered_by_the_one_that_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.end_epoch()
    with ThreadPoolExecutor(1) as threads, Asker(tmp_path, open_key_ring(tmp_path)) as one:
        asking = threads.submit(one.ask, GROWTH, 60.0)
        while bench.store.audit.told(acts.Commanded) == []:
            bench.desk.look()
        bench.store.close()  # all that a killed process does not do itself; its mail stays as it is
        with closing(Bench(tmp_path)) as after:
            while not asking.done():
                after.desk.look()
            report = asking.result()
            assert (report.status, after.done) == (REFUSED, [])
            assert report.text == NOT_DONE.replace("12", "6")


class Paper:
    """A record in memory, on which nothing can be written while `is_full`."""

    def __init__(self, told: Sequence[Event] = ()) -> None:
        self.events, self.is_full = list(told), False

    def told(self, event: type[E]) -> list[E]:
        return [one for one in self.events if isinstance(one, event)]

    def settle(self) -> None:
        if self.is_full:
            raise CheckpointError("full")

    def emit(self, event: Event) -> None:
        self.events.append(event)


def ledger_on(paper: Paper) -> Ledger:
    log = RunLog()
    log.telling.sinks.insert(0, paper)
    return Ledger(paper, log)


def commanded(number: int, key: str = "") -> acts.Commanded:
    return acts.Commanded(1, "me@here", "grow", key or f"key-{number}", "content")


def test_so_many_commands_are_known_as_is_said_and_the_oldest_go_first() -> None:
    paper = Paper([commanded(number) for number in range(MOST + 2)])
    ledger = ledger_on(paper)
    assert ledger.find("key-1") is None
    assert ledger.find("key-2") is not None
    ledger.accept(commanded(0, "new"))
    assert ledger.find("key-2") is None
    assert ledger.find("new") is not None


def test_commands_of_runs_that_wrote_no_keys_down_are_not_taken_up() -> None:
    paper = Paper([acts.Commanded(1, "me@here", "grow")])
    ledger_on(paper).take_up()
    assert len(paper.events) == 1


def test_nobody_is_answered_before_the_answer_is_durable() -> None:
    paper = Paper()
    ledger = ledger_on(paper)
    ledger.accept(commanded(1))
    paper.is_full = True
    ledger.end("key-1", is_done=True, reply="Grown.")
    assert not ledger.is_durable()
    paper.is_full = False
    assert ledger.is_durable()
