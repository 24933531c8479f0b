"""The journal: several processes, kills, damage, and files that cannot be used."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.errors import BusError
from esper.leyline import ManualClock
from esper.oona import Limits
from esper.oona.journal import JournalBus
from tests.oona.publishing import TOPIC, record

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def publishing(path: Path, first: int, at_once: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.oona.publishing", str(path), str(first), str(at_once)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def keys(bus: JournalBus, group: str) -> list[str]:
    reader, got = bus.subscribe(TOPIC, group), list[str]()
    while taken := reader.receive(1000):
        got += [one.envelope.idempotency_key for one in taken]
        reader.ack(taken)
    return got


@pytest.mark.parametrize("at_once", [1, 50])
def test_a_writer_that_is_killed_loses_nothing_and_repeats_nothing(tmp_path: Path, at_once: int) -> None:
    path, acknowledged = tmp_path / "bus.sqlite", 0
    for kill in range(3):
        with publishing(path, acknowledged, at_once) as process:
            assert process.stdout is not None
            end = threading.Timer(60.0, process.kill)
            end.start()
            for line in process.stdout:
                acknowledged = int(line)
                if acknowledged >= (kill + 1) * 20 * at_once:
                    process.kill()
            end.cancel()
        assert acknowledged >= (kill + 1) * 20 * at_once
    bus = JournalBus(path)
    got = keys(bus, "page")
    bus.close()
    assert len(got) == len(set(got)), "what the next writer repeated was known"
    assert got[:acknowledged] == [f"run/{number:09d}" for number in range(acknowledged)]


def test_what_a_killed_reader_had_goes_to_another_process(tmp_path: Path) -> None:
    path, limits = tmp_path / "bus.sqlite", Limits(lease_seconds=30.0)
    clock = ManualClock(1.8e9)
    with_him = JournalBus(path, limits, clock)
    with_him.publish([record(0)])
    assert len(with_him.subscribe(TOPIC, "page").receive(1)) == 1
    with_him.close()
    alive = JournalBus(path, limits, clock)
    reader = alive.subscribe(TOPIC, "page")
    assert reader.receive(1) == []
    clock.advance(30.0)
    (again,) = reader.receive(1)
    assert again.attempt == 2
    alive.close()
    with pytest.raises(BusError, match="was closed"):
        reader.receive(1)


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    JournalBus(tmp_path / "bus.sqlite").close()
    assert (tmp_path / "bus.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_record_whose_bytes_have_changed_is_a_dead_letter(tmp_path: Path) -> None:
    bus = JournalBus(tmp_path / "bus.sqlite")
    bus.publish([record(number) for number in range(3)])
    with sqlite3.connect(tmp_path / "bus.sqlite") as other:
        other.execute("UPDATE records SET raw = x'0801ff' WHERE number = 2")
    other.close()
    assert keys(bus, "page") == ["run/000000000", "run/000000002"]
    (letter,) = bus.dead(TOPIC, "page")
    assert letter.reason == "its bytes are damaged"
    assert not letter.envelope.payload
    bus.close()


def test_a_damaged_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "bus.sqlite"
    bus = JournalBus(path)
    bus.publish([record(number) for number in range(2000)])
    bus.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:20_000] + bytes(range(256)) * 80 + whole[40_480:])
    with pytest.raises(BusError, match=r"is damaged \([^\n*]+\)"):
        JournalBus(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BusError, match="is damaged"):
        JournalBus(path)


def test_a_name_of_a_table_that_is_no_text_any_more_is_damage_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "bus.sqlite"
    JournalBus(path).close()
    path.write_bytes(path.read_bytes().replace(b"tabletopicstopics", b"tabletop\x90cstopics"))
    with pytest.raises(BusError, match="is damaged"):
        JournalBus(path)


def test_what_is_no_journal_is_left_as_it_is(tmp_path: Path) -> None:
    text, other, newer = (tmp_path / f"{name}.sqlite" for name in ("text", "other", "newer"))
    text.write_text("Dear diary, " * 1000)
    with pytest.raises(BusError, match="is no journal"):
        JournalBus(text)
    assert text.read_text().startswith("Dear diary")
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE records (number)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(BusError, match="something else"):
        JournalBus(other)
    assert other.read_bytes() == before
    JournalBus(newer).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(BusError, match="has form 2"):
        JournalBus(newer)


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "bus.sqlite", tmp_path):
        with pytest.raises(BusError, match=f"{path} cannot be opened"):
            JournalBus(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_who_may_not_write_is_told_so() -> None:
    path = Path("/tmp") / f"esper-{os.getpid()}" / "bus.sqlite"
    path.parent.mkdir()
    try:
        JournalBus(path).close()
        path.chmod(0o644)
        os.seteuid(NOBODY)
        with pytest.raises(BusError, match="is read-only"):
            JournalBus(path)
    finally:
        os.seteuid(0)
        shutil.rmtree(path.parent)


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_keeps_what_was_acknowledged_and_goes_on_later(tmp_path: Path) -> None:
    bus = JournalBus(tmp_path / "bus.sqlite")
    bus.publish([record(number) for number in range(10)])
    size = (tmp_path / "bus.sqlite-wal").stat().st_size
    with files_end_at(size), pytest.raises(BusError, match=r"cannot be read or written|the disk is full"):
        bus.publish([record(number) for number in range(10, 2000)])
    bus.publish([record(number) for number in range(2000, 2010)])
    assert len(keys(bus, "page")) == 20
    bus.close()


def test_the_checksum_is_of_the_whole_record(tmp_path: Path) -> None:
    JournalBus(tmp_path / "bus.sqlite").publish([record(1)])
    connection = sqlite3.connect(tmp_path / "bus.sqlite")
    (raw, checksum), *rest = connection.execute("SELECT raw, checksum FROM records")
    connection.close()
    assert checksum == zlib.crc32(raw)
    assert not rest
