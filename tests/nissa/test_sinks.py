"""An event is emitted once, and every sink hears of it."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from esper.nissa import acts, events, metric_events
from esper.nissa.event import Event
from esper.nissa.sinks import FanOut, ListSink, LoggerSink, Sink


def test_the_logger_is_told_in_three_degrees(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "esper")
    for event in (events.Idle(1, "Nothing."), events.Refused(2, "100 % no."), events.PruningOff("No data.")):
        LoggerSink().emit(event)
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("esper", "DEBUG", "epoch 1: Nothing."),
        ("esper", "INFO", "epoch 2: Nothing was masked, the plan was refused: 100 % no."),
        ("esper", "WARNING", "No data."),
    ]


def test_a_further_sink_is_one_more_in_the_list() -> None:
    first, second = ListSink(), ListSink()
    telling = FanOut(first)
    telling.emit(acts.WentBack(1, 10))
    telling.sinks.append(second)
    telling.emit(acts.WentBack(2, 20))
    assert first.events == [acts.WentBack(1, 10), acts.WentBack(2, 20)]
    assert second.events == [acts.WentBack(2, 20)]


def test_what_is_told_once_is_told_again_only_if_it_is_another() -> None:
    heard = ListSink()
    telling = FanOut(heard)
    for event in (events.MaskWaits("f1"), events.MaskWaits("f1"), events.MaskWaits("loss")):
        telling.emit(event)
    assert heard.events == [events.MaskWaits("f1"), events.MaskWaits("loss")]


class Groups(ListSink):
    """A sink that is told several events at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def emit_all(self, group: Sequence[Event]) -> None:
        self.sizes.append(len(group))
        self.events += group


def test_a_group_is_told_at_once_to_who_takes_it_and_one_by_one_to_others() -> None:
    plain, grouped = ListSink(), Groups()
    telling = FanOut(FanOut(grouped), plain)
    telling.emit(events.MaskWaits("f1"))
    group = [events.MaskWaits("f1"), events.MaskWaits("loss"), events.NotFaster(), events.MaskWaits("loss")]
    telling.emit_all(group)
    assert grouped.sizes == [1, 2]
    assert plain.events == grouped.events
    assert plain.events == [events.MaskWaits("f1"), events.MaskWaits("loss"), events.NotFaster()]


def test_a_moment_may_come_again_after_a_rollback() -> None:
    heard = ListSink()
    telling = FanOut(heard)
    telling.emit(acts.WentBack(1, 10))
    telling.emit(acts.WentBack(1, 10))
    assert len(heard.events) == 2


def test_a_fan_out_is_a_sink_of_another() -> None:
    heard = ListSink()
    inner: Sink = FanOut(heard)
    FanOut(inner, inner).emit(events.NotFaster())
    assert heard.events == [events.NotFaster()]


def test_a_sink_may_emit_what_follows_from_what_it_hears() -> None:
    heard = ListSink()
    telling = FanOut(heard)

    class Alarm:
        def emit(self, event: Event) -> None:
            if isinstance(event, metric_events.NotFinite):
                telling.emit(events.PruningOff("The metric is no number."))

    telling.sinks.append(Alarm())
    telling.emit(metric_events.NotFinite(1, "loss", float("inf")))
    assert [type(event) for event in heard.events] == [metric_events.NotFinite, events.PruningOff]


def test_threads_hear_each_event_once_and_all_sinks_in_one_order() -> None:
    first, second = ListSink(), ListSink()
    telling = FanOut(first, second)

    def work() -> None:
        for number in range(200):
            telling.emit(events.NothingToSave(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(first.events) == 200
    assert first.events == second.events


TELLS = """
import logging
import subprocess
import sys
{set_up}
from esper.nissa import LoggerSink, acts, events
for event in (events.Idle(1, "Nothing."), acts.WentBack(2, 20)):
    LoggerSink(is_heard={is_heard}).emit(event)
"""


@pytest.mark.parametrize(
    ("set_up", "is_heard", "lines"),
    [
        ("", True, 1),
        ("", False, 0),
        ("logging.getLogger('esper').setLevel(logging.WARNING)", True, 0),
        ("logging.getLogger('esper').addHandler(logging.NullHandler())", True, 0),
        ("logging.basicConfig(level=logging.ERROR)", True, 0),
        ("logging.basicConfig(level=logging.DEBUG)", True, 2),
    ],
)
def test_people_who_set_up_no_logging_hear_the_news_of_a_run(set_up: str, is_heard: bool, lines: int) -> None:
    program = TELLS.format(set_up=set_up, is_heard=is_heard)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(ended.stderr.splitlines()) == lines
    assert ended.stdout == ""


def test_standard_error_that_takes_no_more_ends_nothing() -> None:
    script = (
        "import os, sys; from esper.nissa import LoggerSink, events; sink = LoggerSink(is_heard=True)\n"
        "sys.stderr.close() if sys.argv[1] == 'closed' else os.dup2(os.open('/dev/full', os.O_WRONLY), 2)\n"
        "sys.stderr = None if sys.argv[1] == 'none' else sys.stderr\n"
        "for _ in range(2): sink.emit(events.PruningOff('No data.'))\n"
        "print('goes on', flush=True); os._exit(0)"
    )
    for how in ("closed", "full", "none"):
        ended = subprocess.run(
            [sys.executable, "-c", script, how], check=False, capture_output=True, text=True, timeout=60
        )
        assert (ended.returncode, ended.stdout) == (0, "goes on\n")
