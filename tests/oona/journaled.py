"""The life of a bus in a file: what is published, taken and done."""

from __future__ import annotations

import time
from pathlib import Path

from esper.checkpoint import Storage
from esper.oona import Limits
from esper.oona.journal import JournalBus
from tests.faults.life import Life, Tell
from tests.oona.publishing import TOPIC, record


def _live_of_a_journal(root: Path, _: Storage, tell: Tell) -> None:
    now = time.time()
    for begin in (0, 10):
        bus = JournalBus(root / "bus.sqlite", Limits(), lambda: now)
        reader = bus.subscribe(TOPIC, "page")
        for number in range(begin, begin + 6, 2):
            bus.publish([record(number), record(number + 1)])
            tell(f"told-{number} told-{number + 1} ")
        taken = reader.receive(3)
        reader.ack(taken)
        tell("".join(f"done-{int(one.envelope.idempotency_key[4:])} " for one in taken))
        bus.close()
        tell("closed ")


def _judge_journal(root: Path, told: str) -> str:
    words = told.split()
    done = {int(word[5:]) for word in words if word.startswith("done-")}
    there = {int(word[5:]) for word in words if word.startswith("told-")}
    later = time.time() + 60.0
    bus = JournalBus(root / "bus.sqlite", Limits(), lambda: later)
    reader, got = bus.subscribe(TOPIC, "page"), list[int]()
    while taken := reader.receive(100):
        got += [int(one.envelope.idempotency_key[4:]) for one in taken]
        reader.ack(taken)
    dead = bus.dead(TOPIC, "page")
    bus.close()
    if len(got) != len(set(got)) or done & set(got) or dead:
        return f"{got} came after {told}"
    missing = there - done - set(got) - _in_the_making(there, done)
    return f"{sorted(missing)} did not come after {told}" if missing else ""


def _in_the_making(there: set[int], done: set[int]) -> set[int]:
    """An acknowledgement that nobody was told of may have been written: of the next three."""
    return set(sorted(there - done)[:3])


JOURNAL = Life("bus and outbox of telemetry", _live_of_a_journal, _judge_journal, is_by_storage=False)
