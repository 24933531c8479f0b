"""`esper watch` beside runs that publish, over kills, and on buses that cannot be used."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.leyline.wire import messages
from esper.nissa import OnBus, events
from esper.oona import Limits, envelope_of, open_bus
from tests.cli.test_main import ROOT, esper

GIVES_UP_SECONDS = 60
ENDS = ("Too costly.", "Too rare.", "Too late.")


@contextmanager
def watching(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The command beside the test; one that goes on too long is killed, and what reads from it ends."""
    command = [sys.executable, "-m", "esper", "watch", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        end = threading.Timer(GIVES_UP_SECONDS, process.kill)
        end.start()
        try:
            yield process
        finally:
            end.cancel()
            process.kill()


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ends by Ctrl-C, and what it has said on standard error."""
    os.kill(process.pid, signal.SIGINT)
    _, problems = process.communicate(timeout=GIVES_UP_SECONDS)
    return process.returncode, problems


def published(address: str, *texts: str, boot: str = "b00t") -> None:
    writer = OnBus(address, "first", boot)
    for number, text in enumerate(texts, 1):
        writer.write(time.time(), events.Refused(number, text))
    writer.close()


def test_what_came_before_and_what_comes_is_printed_once_per_group(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    published(address, "Too costly.", "Too rare.")
    with watching(address, "--json") as process:
        first = [json.loads(line) for line in lines(process, 2)]
        published(address, "Too late.", boot="again")
        (last,) = [json.loads(line) for line in lines(process, 1)]
        code, problems = interrupted(process)
    said = [one["text"] for one in (*first, last)]
    assert [text.endswith(end) for text, end in zip(said, ENDS, strict=True)] == [True] * 3, said
    assert {one["run"] for one in first} == {"first"}
    assert [(one["key"], one["epoch"], one["attempt"]) for one in first] == [
        ("first/b00t/000000001", 1, 1),
        ("first/b00t/000000002", 2, 1),
    ]
    assert (code, problems) == (130, "")
    with watching(address) as process:
        published(address, "News.", boot="third")
        (line,) = lines(process, 1)
    assert "first  problem: epoch 1: " in line or "first  epoch 1: " in line
    assert "News." in line
    with watching(address, "--group", "pager") as process:
        assert ["costly" in line for line in lines(process, 2)] == [True, False]


def test_what_a_killed_watcher_did_not_acknowledge_is_shown_to_the_next(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    published(address, "Too costly.")
    bus = open_bus(address, Limits(lease_seconds=0.001))
    assert len(bus.subscribe("TelemetryEvent", "watch").receive(9)) == 1  # and is gone
    bus.close()
    with watching(address) as process:
        assert "(delivered for the 2. time)" in lines(process, 1)[0]


def test_what_cannot_be_read_is_told_and_ends_as_a_dead_letter(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    rubbish = envelope_of(messages.TelemetryEvent(version=99), at_seconds=time.time(), key="odd/1")
    bus = open_bus(address, Limits(lease_seconds=0.001))
    bus.publish([rubbish])
    with watching(address) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
    assert "A record of TelemetryEvent with the key 'odd/1' cannot be read" in said
    assert "dead letter after five deliveries" in said
    reader = bus.subscribe("TelemetryEvent", "careless")
    end = time.monotonic() + GIVES_UP_SECONDS
    while not bus.dead("TelemetryEvent", "careless") and time.monotonic() < end:
        reader.receive(9, 0.05)
    bus.close()
    (letter,) = json.loads(esper("watch", address, "--group", "careless", "--dead", "--json").stdout)
    assert (letter["key"], letter["deliveries"]) == ("odd/1", 5)
    assert "odd/1" in esper("watch", address, "--group", "careless", "--dead").stdout
    assert "has no dead letters" in esper("watch", address, "--dead").stdout


def test_a_bus_that_is_not_there_yet_is_made_and_said(tmp_path: Path) -> None:
    address = str(tmp_path / "bus.sqlite")
    with watching(address) as process:
        assert process.stderr is not None
        assert "it is made, and nothing is on it yet" in process.stderr.readline()
        published(address, "News.")
        assert "News." in lines(process, 1)[0]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["runs"], "is no bus"),
        (["redis://127.0.0.1:1"], "No Redis answers at redis://127.0.0.1:1"),
        (["nowhere/bus.sqlite"], "cannot be opened"),
        (["nowhere.sqlite", "--dead"], "There is no bus at nowhere.sqlite"),
        (["text.sqlite"], "is no journal"),
        (["new.sqlite", "--group", "a b"], "cannot name a group"),
    ],
)
def test_what_cannot_be_watched_is_refused_by_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.sqlite").write_text("Dear diary, " * 1000)
    done = esper("watch", *words)
    assert done.returncode == 2
    assert why in " ".join(done.stderr.split())


def test_a_bus_that_cannot_be_made_is_not_said_to_be(tmp_path: Path) -> None:
    outcome = esper("watch", str(tmp_path / "nowhere" / "bus.sqlite"))
    assert outcome.returncode == 2
    said = " ".join(outcome.stderr.split())
    assert "its folder is not there" in said
    assert "it is made" not in said
