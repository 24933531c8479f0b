"""Whatever a sink does, who tells it neither waits nor fails, and people hear of it once."""

from __future__ import annotations

import threading
from pathlib import Path

from esper.nissa import Apart, Event, Forwarding, JsonLines, ListSink, acts, events

FIRST, SECOND, THIRD = (acts.WentBack(number, 10 * number) for number in (1, 2, 3))


class Kept:
    """A writer that takes every event, once `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.taken: list[Event] = []
        self.is_closed = False

    def write(self, at_seconds: float, event: Event) -> None:
        assert self.gate.wait(60)
        self.taken.append(event)

    def close(self) -> None:
        self.is_closed = True


class Broken(Kept):
    """One that takes nothing."""

    def write(self, at_seconds: float, event: Event) -> None:
        raise ConnectionError("nobody answers")


def test_a_writer_gets_all_events_in_order_and_is_closed() -> None:
    writer, problems = Kept(), ListSink()
    sink = Apart("kept", writer, problems.emit, 10)
    for event in (FIRST, SECOND, THIRD):
        sink.emit(event)
    writer.gate.set()
    sink.close(60)
    sink.close(60)
    assert (writer.taken, writer.is_closed, sink.lost) == ([FIRST, SECOND, THIRD], True, 0)
    assert problems.events == []


def test_what_a_slow_writer_has_no_place_for_is_counted_and_told_once() -> None:
    writer, problems = Kept(), ListSink()
    sink = Apart("slow", writer, problems.emit, 2)
    for number in range(20):
        sink.emit(acts.WentBack(number, number))
    writer.gate.set()
    sink.close(60)
    assert len(writer.taken) + sink.lost == 20
    assert len(writer.taken) in (2, 3)  # one may have been taken out before the others came
    assert [event.text.partition(". ")[0] for event in problems.events] == [
        "Telemetry to slow fails: 2 events wait for it, and no more are kept"
    ]


def test_a_writer_that_hangs_does_not_hold_up_the_end() -> None:
    writer = Kept()
    sink = Apart("hangs", writer, ListSink().emit, 1)
    for event in (FIRST, SECOND, THIRD):
        sink.emit(event)
    sink.close(0.01)
    assert not writer.is_closed
    writer.gate.set()


def test_what_is_not_taken_in_time_is_told_once_and_waited_for_once() -> None:
    writer, problems = Kept(), ListSink()
    sink = Apart("hangs", writer, problems.emit, 10)
    sink.emit(FIRST)
    sink.settle(0.01)
    assert [type(event) for event in problems.events] == [events.SinkFailed]
    assert "Telemetry to hangs fails: it has not taken within 5 s" in problems.events[0].text
    sink.close(0.01)
    assert len(problems.events) == 1
    writer.gate.set()


def test_the_end_tells_of_a_writer_that_hangs_also_where_its_queue_is_full() -> None:
    writer, problems = Kept(), ListSink()
    sink = Apart("hangs", writer, problems.emit, 2)
    sink.emit(FIRST)
    sink.close(0.01)
    assert [type(event) for event in problems.events] == [events.SinkFailed]
    writer.gate.set()


def test_a_writer_that_has_taken_everything_is_not_told_of() -> None:
    writer, problems = Kept(), ListSink()
    writer.gate.set()
    sink = Apart("kept", writer, problems.emit, 10)
    sink.emit(FIRST)
    sink.settle(60)
    assert writer.taken == [FIRST]
    sink.emit(SECOND)
    sink.close(60)
    assert (writer.taken, problems.events) == ([FIRST, SECOND], [])


def test_an_error_of_a_writer_is_told_once_and_the_next_event_is_tried() -> None:
    problems = ListSink()
    sink = Apart("broken", Broken(), problems.emit, 10)
    for event in (FIRST, SECOND, THIRD):
        sink.emit(event)
    sink.close(60)
    assert sink.lost == 3
    assert [type(event) for event in problems.events] == [events.SinkFailed]
    assert "ConnectionError: nobody answers" in problems.events[0].text


def test_a_full_disk_is_a_problem_of_telemetry_only() -> None:
    problems = ListSink()
    sink = Apart("telemetry.jsonl", JsonLines(Path("/dev/full")), problems.emit, 10)
    sink.emit(FIRST)
    sink.emit(SECOND)
    sink.close(60)
    assert sink.lost == 2
    assert "No space left on device" in problems.events[0].text
    assert len(problems.events) == 1


def test_a_problem_may_be_told_to_the_sink_that_has_it() -> None:
    sinks: list[Apart] = []

    def tell_it(problem: Event) -> None:
        sinks[0].emit(problem)

    sinks.append(Apart("broken", Broken(), tell_it, 10))
    sinks[0].emit(FIRST)
    sinks[0].close(60)
    assert sinks[0].lost in (1, 2)  # the news of the first loss may come behind the end


def test_a_sink_of_ones_own_is_told_in_another_thread() -> None:
    threads: list[str] = []

    class Own:
        def emit(self, event: Event) -> None:
            threads.append(threading.current_thread().name)

    sink = Apart("Own", Forwarding(Own()), ListSink().emit, 10)
    sink.emit(FIRST)
    sink.close(60)
    assert threads == ["esper-Own"]
