"""How records get into a journal, and out of it when it is full."""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections import Counter
from typing import NamedTuple

from esper.errors import ContractError
from esper.leyline import Clock
from esper.leyline.wire import messages, parsed
from esper.oona.bus import Counts, DeadLetter, Limits, Receipt
from esper.oona.envelopes import PRIORITIES, raw_of, until_of
from esper.oona.shedding import shedding


class Row(NamedTuple):
    """A record as it stands in the table."""

    priority: int
    key: str | None
    until: float
    checksum: int
    raw: bytes


def row_of(envelope: messages.EventEnvelope) -> Row:
    """A record that may go on the bus.

    Raises:
        ContractError: it may not.
    """
    raw = raw_of(envelope)
    key = envelope.idempotency_key or None
    return Row(envelope.priority, key, until_of(envelope), zlib.crc32(raw), raw)


def envelope_in(raw: bytes, checksum: int | None = None) -> messages.EventEnvelope | None:
    """The record in some bytes of the file; None: they are not those that were written."""
    if checksum is not None and zlib.crc32(raw) != checksum:
        return None
    try:
        return parsed(messages.EventEnvelope, raw)
    except ContractError:
        return None


class Rows:
    """What a publisher does inside one transaction.

    Args:
        connection: of the file.
        limits: how much, and how long.
        clock: seconds since 1970.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits, clock: Clock) -> None:
        self._connection, self._limits, self._clock = connection, limits, clock

    def publish(self, topic: str, rows: list[Row]) -> Receipt:
        """Puts records on a topic."""
        number, held = self._topic(topic)
        most = self._limits.max_records
        if held + len(rows) > most:
            held -= self._make_room(number, held + len(rows) - most // 2)
        if held + len(rows) <= most:
            stored = self._insert(number, rows)
            return Receipt(stored, len(rows) - stored)
        return self._squeeze(number, rows)

    def group(self, topic: str, name: str) -> int:
        """The number of a group, which is made if it is new."""
        number, _ = self._topic(topic)
        run = self._connection.execute
        run("INSERT OR IGNORE INTO groups (topic, name) VALUES (?, ?)", (number, name))
        (group,) = run("SELECT number FROM groups WHERE topic = ? AND name = ?", (number, name)).fetchone()
        for priority in PRIORITIES:
            run("INSERT OR IGNORE INTO positions VALUES (?, ?, 0)", (group, priority))
        return int(group)

    def dead(self, topic: str, group: str) -> list[DeadLetter]:
        """The dead letters of a group."""
        found = self._connection.execute(
            'SELECT raw, deliveries, at_seconds, reason FROM dead WHERE "group" = (SELECT g.number FROM '
            "groups g JOIN topics t ON t.number = g.topic WHERE t.name = ? AND g.name = ?) ORDER BY number",
            (topic, group),
        )
        return [DeadLetter(envelope_in(raw) or messages.EventEnvelope(), *facts) for raw, *facts in found]

    def counts(self, topic: str) -> Counts:
        """What a topic holds and has lost."""
        found = self._connection.execute(
            "SELECT records, shed, expired, forgotten FROM topics WHERE name = ?", (topic,)
        ).fetchone()
        return Counts(*found) if found else Counts()

    def _topic(self, name: str) -> tuple[int, int]:
        """Its number, and how many records it holds."""
        ask = "SELECT number, records FROM topics WHERE name = ?"
        found = self._connection.execute(ask, (name,)).fetchone()
        if found is None:
            self._connection.execute("INSERT INTO topics (name) VALUES (?)", (name,))
            found = self._connection.execute(ask, (name,)).fetchone()
        return int(found[0]), int(found[1])

    def _insert(self, topic: int, rows: list[Row]) -> int:
        """Stores those whose key is not known; returns how many."""
        # `OR IGNORE` passes over a known key, and `rowcount` adds up what was inserted.
        stored = self._connection.executemany(
            "INSERT OR IGNORE INTO records (topic, priority, key, until, checksum, raw) "  # noqa: S608
            f"VALUES ({topic:d}, ?, ?, ?, ?, ?)",
            rows,
        ).rowcount
        self._add(topic, "records", stored)
        return stored

    def _squeeze(self, topic: int, rows: list[Row]) -> Receipt:
        """Stores what fits into a topic that is full."""
        new = self._new(topic, rows)
        held: Counter[int] = Counter(
            dict(
                self._connection.execute(
                    "SELECT priority, count(*) FROM records WHERE topic = ? GROUP BY priority", (topic,)
                )
            )
        )
        plan = shedding(held, [rows[at].priority for at in new], self._limits.max_records)
        shed = tuple(new[position] for position in plan.shed)
        gone = set(shed)
        stored = self._insert(topic, [rows[at] for at in new if at not in gone])
        for priority, count in plan.displaced.items():
            self._delete(
                "SELECT number FROM records WHERE topic = ? AND priority = ? ORDER BY number LIMIT ?",
                (topic, priority, count),
            )
        displaced = plan.displaced.total()
        self._add(topic, "records", -displaced)
        self._add(topic, "shed", displaced + len(shed))
        return Receipt(stored, len(rows) - len(new), shed, displaced)

    def _new(self, topic: int, rows: list[Row]) -> list[int]:
        """Positions of those whose key is not known, and is not that of one before."""
        keys, new = set[str](), list[int]()
        for at, row in enumerate(rows):
            if row.key is not None:
                ask = "SELECT 1 FROM records WHERE topic = ? AND key = ?"
                if row.key in keys or self._connection.execute(ask, (topic, row.key)).fetchone():
                    continue
                keys.add(row.key)
            new.append(at)
        return new

    def _make_room(self, topic: int, wanted: int) -> int:
        """Takes out what is expired, and at most `wanted` of what every group has done; returns how many."""
        now, done = self._clock(), self._connection.execute(_DONE, (topic,)).fetchall()
        gone = 0
        for priority, below in done:
            gone += self._delete(*_done_of(topic, priority, below, -1, until=now))
        expired = self._delete("SELECT number FROM records WHERE topic = ? AND until <= ?", (topic, now))
        gone += expired
        for priority, below in done:
            gone += self._delete(*_done_of(topic, priority, below, max(wanted - gone, 0)))
        self._add(topic, "expired", expired)
        self._add(topic, "records", -gone)
        return gone

    def _delete(self, which: str, values: tuple[object, ...]) -> int:
        """Deletes records that a statement finds, with the leases on them."""
        numbers = self._connection.execute(which, values).fetchall()
        self._connection.executemany("DELETE FROM records WHERE number = ?", numbers)
        self._connection.executemany("DELETE FROM leases WHERE record = ?", numbers)
        return len(numbers)

    def _add(self, topic: int, column: str, number: int) -> None:
        if number:
            self._connection.execute(
                f"UPDATE topics SET {column} = {column} + ? WHERE number = ?",  # noqa: S608 - a name of ours
                (number, topic),
            )


_DONE = """
SELECT p.priority, min(min(p.record, coalesce((
    SELECT min(l.record) - 1 FROM leases l JOIN records r ON r.number = l.record
    WHERE l."group" = g.number AND r.priority = p.priority
), p.record))) FROM positions p JOIN groups g ON g.number = p."group" WHERE g.topic = ? GROUP BY p.priority
"""
"""Per priority, up to which number every group has done all records."""


def _done_of(
    topic: int, priority: int, below: int, most: int, until: float = math.inf
) -> tuple[str, tuple[object, ...]]:
    """The statement that finds the oldest of what every group has done, at most so many, with its values."""
    statement = (
        "SELECT number FROM records WHERE topic = ? AND priority = ? AND number <= ? AND until <= ? "
        "ORDER BY number LIMIT ?"
    )
    return statement, (topic, priority, below, until, most)
