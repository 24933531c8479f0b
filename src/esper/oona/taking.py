"""How records get from a journal into the hands of a reader, and are done."""

from __future__ import annotations

import sqlite3
from collections import Counter

from esper.leyline import Clock
from esper.oona.bus import Delivery, Limits
from esper.oona.envelopes import PRIORITIES
from esper.oona.rows import envelope_in


class Taking:
    """What a reader does inside one transaction.

    Args:
        connection: of the file.
        limits: how much, and how long.
        clock: seconds since 1970.
    """

    def __init__(self, connection: sqlite3.Connection, limits: Limits, clock: Clock) -> None:
        self._connection, self._limits, self._now = connection, limits, clock()
        self._counted = Counter[str]()

    def has_some(self, group: int) -> bool:
        """Whether it is worth a transaction."""
        late = 'SELECT 1 FROM leases WHERE "group" = ? AND ends <= ? LIMIT 1'
        if self._connection.execute(late, (group, self._now)).fetchone():
            return True
        new = (
            'SELECT 1 FROM positions p JOIN groups g ON g.number = p."group" WHERE g.number = ? AND EXISTS '
            "(SELECT 1 FROM records r WHERE r.topic = g.topic AND r.priority = p.priority "
            "AND r.number > p.record)"
        )
        return self._connection.execute(new, (group,)).fetchone() is not None

    def take(self, group: int, most: int) -> list[Delivery]:
        """Lends records to a reader of a group."""
        taken = self._abandoned(group, most)
        for priority in PRIORITIES:
            if len(taken) < most:
                taken += self._new(group, priority, most - len(taken))
        for column, number in self._counted.items():
            self._connection.execute(
                f"UPDATE topics SET {column} = {column} + ? WHERE number = "  # noqa: S608 - a name of ours
                "(SELECT topic FROM groups WHERE number = ?)",
                (number, group),
            )
        return taken

    def ack(self, group: int, numbers: list[int]) -> int:
        """Ends leases of a group; returns how many there were."""
        return self._connection.executemany(
            'DELETE FROM leases WHERE "group" = ? AND record = ?', [(group, number) for number in numbers]
        ).rowcount

    def _abandoned(self, group: int, most: int) -> list[Delivery]:
        found = self._connection.execute(
            "SELECT r.number, r.until, r.checksum, r.raw, l.attempt FROM leases l JOIN records r ON "
            'r.number = l.record WHERE l."group" = ? AND l.ends <= ? '
            "ORDER BY r.priority DESC, r.number LIMIT ?",
            (group, self._now, most),
        ).fetchall()
        taken, over = list[Delivery](), list[int]()
        for number, until, checksum, raw, attempt in found:
            if until > self._now and attempt < self._limits.max_deliveries:
                envelope = envelope_in(raw, checksum)
                if envelope is not None:
                    taken.append(Delivery(envelope, attempt + 1, str(number)))
                    continue
                self._bury(group, raw, attempt, "its bytes are damaged")
            elif until > self._now:
                self._bury(group, raw, attempt, f"nobody acknowledged it in {attempt} deliveries")
            else:
                self._counted["expired"] += 1
            over.append(number)
        self.ack(group, over)
        self._lend(group, taken)
        return taken

    def _new(self, group: int, priority: int, most: int) -> list[Delivery]:
        found = self._connection.execute(
            "SELECT r.number, r.until, r.checksum, r.raw FROM records r WHERE r.topic = "
            "(SELECT topic FROM groups WHERE number = ?) AND r.priority = ? AND r.number > (SELECT record "
            'FROM positions WHERE "group" = ? AND priority = ?) ORDER BY r.number LIMIT ?',
            (group, priority, group, priority, most),
        ).fetchall()
        if not found:
            return []
        taken = list[Delivery]()
        for number, until, checksum, raw in found:
            envelope = envelope_in(raw, checksum)
            if envelope is None:
                self._bury(group, raw, 0, "its bytes are damaged")
            elif until <= self._now:
                self._counted["expired"] += 1
            else:
                taken.append(Delivery(envelope, 1, str(number)))
        self._connection.execute(
            'UPDATE positions SET record = ? WHERE "group" = ? AND priority = ?',
            (found[-1][0], group, priority),
        )
        self._lend(group, taken)
        return taken

    def _lend(self, group: int, deliveries: list[Delivery]) -> None:
        ends = self._now + self._limits.lease_seconds
        self._connection.executemany(
            "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)",
            [(group, int(delivery.place), ends, delivery.attempt) for delivery in deliveries],
        )

    def _bury(self, group: int, raw: bytes, deliveries: int, reason: str) -> None:
        run = self._connection.execute
        run(
            'INSERT INTO dead ("group", deliveries, at_seconds, reason, raw) VALUES (?, ?, ?, ?, ?)',
            (group, deliveries, self._now, reason, raw),
        )
        gone = run(
            'DELETE FROM dead WHERE "group" = ? AND number <= (SELECT number FROM dead WHERE "group" = ? '
            "ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (group, group, self._limits.max_dead),
        ).rowcount
        self._counted["forgotten"] += gone
