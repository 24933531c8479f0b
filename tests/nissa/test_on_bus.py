"""Telemetry on a bus: each event once, whatever the bus does meanwhile."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from esper.errors import BusError
from esper.leyline.wire import messages
from esper.nissa import Apart, Event, OnBus, events, progress
from esper.oona import Delivery, Limits, envelope_of, open_bus
from tests.oona.servers import redis_server

NOW = time.time()
EPOCH = progress.EpochEnded(
    3, 30, {"f1": 0.5, "loss": float("nan")}, 1e6, 1200, 4, 1.5, 0.1, 9.0, None, 60.0, 0.5, None
)


def read(address: str) -> list[Delivery]:
    bus = open_bus(address)
    try:
        return bus.subscribe("TelemetryEvent", "test").receive(1000)
    finally:
        bus.close()


def event_of(delivery: Delivery) -> messages.TelemetryEvent:
    return messages.TelemetryEvent.FromString(delivery.envelope.payload)


def test_every_event_is_a_record_and_problems_are_read_first(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    writer = OnBus(address, "first", "b00t", lambda text: text.replace("epoch", "period"))
    told_now = (EPOCH, events.Refused(3, "No epoch."), events.Idle(3, "No news."))
    for at_seconds, event in enumerate(told_now, 1):
        writer.write(NOW + at_seconds, event)
    writer.close()
    received = read(address)
    told = {event_of(one).kind: (one.envelope, event_of(one)) for one in received}
    assert sorted(told) == ["epoch_ended", "idle", "refused"]
    envelope, ended = told["epoch_ended"]
    assert (ended.epoch, ended.at_seconds, ended.metrics["f1"]) == (3, NOW + 1, 0.5)
    assert envelope.idempotency_key == "first/b00t/000000001"
    assert told["refused"][1].text.endswith("No period.")
    assert [one.envelope.priority for one in received] == sorted(
        (one.envelope.priority for one in received), reverse=True
    )


def test_a_name_of_any_length_and_alphabet_makes_a_key(tmp_path: Path) -> None:
    writer = OnBus(str(tmp_path / "bus.sqlite"), "ü" * 120 + "\udcff", "b00t")
    writer.write(NOW, EPOCH)
    writer.close()
    bus = open_bus(str(tmp_path / "bus.sqlite"))
    assert bus.counts("TelemetryEvent").records == 1
    bus.close()


def test_a_bus_that_fails_is_told_of_once_and_holds_nobody_up() -> None:
    problems = list[Event]()
    with redis_server() as (address, process):
        process.kill()
        process.wait()
        apart = Apart(f"the bus {address}", OnBus(address, "first", "b00t"), problems.append, 100)
        for number in range(3):
            apart.emit(events.Refused(number, "No."))
        apart.close(30.0)
    (problem,) = problems
    assert f"Telemetry to the bus {address} fails: BusError: No Redis answers at {address}" in problem.text
    assert apart.lost == 4, "three events, and the end"


def test_a_server_that_comes_back_gets_everything_once() -> None:
    with redis_server() as (address, process):
        writer = OnBus(address, "first", "b00t")
        writer.write(NOW, events.Refused(1, "No."))
        process.kill()
        process.wait()
        for epoch in (2, 3):
            with pytest.raises(BusError, match="No Redis answers"):
                writer.write(NOW, events.Refused(epoch, "No."))
        with redis_server("--unixsocket", address.removeprefix("unix://")):
            writer.write(NOW, events.Refused(4, "No."))
            writer.close()
            assert [event_of(one).epoch for one in read(address)] == [2, 3, 4]


def test_what_a_full_disk_has_refused_is_published_with_the_next_event(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    writer = OnBus(address, "first", "b00t")
    writer.write(NOW, events.Refused(1, "first"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "bus.sqlite-wal").stat().st_size, hard))
    try:
        with pytest.raises(BusError, match=r"cannot be read or written|the disk is full"):
            writer.write(NOW, events.Refused(2, "second"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.write(NOW, events.Refused(3, "third"))
    writer.close()
    assert [event_of(one).epoch for one in read(address)] == [1, 2, 3]


def test_a_full_bus_sheds_what_matters_least_and_says_so(tmp_path: Path) -> None:
    address, most = str(tmp_path / "bus.sqlite"), Limits().max_records
    idle = messages.TelemetryEvent(version=1, kind="idle")
    bus = open_bus(address)
    bus.publish([envelope_of(idle, at_seconds=NOW, priority=messages.PRIORITY_LOW)] * most)
    writer = OnBus(address, "first", "b00t")
    with pytest.raises(BusError, match=r"is full, and 1 of the records of least priority were shed"):
        writer.write(NOW, events.Refused(1, "No."))
    writer.close()
    assert (bus.counts("TelemetryEvent").records, bus.counts("TelemetryEvent").shed) == (most, 1)
    (first,) = bus.subscribe("TelemetryEvent", "test").receive(1)
    assert event_of(first).kind == "refused"
    bus.close()


def test_the_folder_where_it_began_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path)
    writer = OnBus("bus.sqlite", "first", "b00t")
    monkeypatch.chdir(tmp_path / "later")
    writer.write(NOW, events.Refused(1, "No."))
    writer.close()
    assert [path.name for path in tmp_path.glob("*.sqlite")] == ["bus.sqlite"]
