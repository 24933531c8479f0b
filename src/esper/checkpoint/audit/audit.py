"""The audit of a run: every event is sealed, linked to the one before, and durable before it takes effect."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Set
from pathlib import Path
from typing import TypeVar

from esper.checkpoint.audit.entry import NOTHING, Entry, Link
from esper.checkpoint.audit.table import AUDIT_FILE, COMPANIONS, AuditTable, snapshot, take_back_first_commit
from esper.checkpoint.audit.verify import HEAD_PURPOSE, examine, head_text
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.layout import aside_path
from esper.checkpoint.manifest import AuditAnchor, digest_of
from esper.checkpoint.storage import Storage
from esper.errors import CheckpointError
from esper.leyline import decode
from esper.nissa import Event, Sink, events, kind_of

E = TypeVar("E", bound=Event)


class Audit:
    """A sink that writes down what it is told; a file is made with the first entry.

    A group of events, and what several threads tell at the same time, goes in one commit. What cannot be
    written waits for the next commit, of which there is one before every checkpoint at the latest; an act is
    refused instead.

    Args:
        path: the file.
        ring: whose primary key seals.
        run: id of the run.
        clock: seconds since 1970.
        last: the entry to go on after; None: the first one is still to come.
    """

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        run: str,
        clock: Callable[[], float],
        last: AuditAnchor | None = None,
    ) -> None:
        self.path = path
        self._ring = ring
        self._run = run
        self._clock = clock
        self._last = last
        self.commits = 0
        """How many there were; entries share them."""
        self._pid = os.getpid()
        self._table: AuditTable | None = None
        self._is_closed = False
        self._turn = threading.Condition()
        self._waiting: list[tuple[int, Entry]] = []
        """What is not written yet, each with its ticket; tickets only rise."""
        self._tickets = self._written = 0
        self._is_writing = False

    def emit(self, event: Event) -> None:
        """Writes down an event; returns when the entry would survive a power cut.

        Raises:
            CheckpointError: an act could not be written down, so it must not be done.
        """
        self.emit_all((event,))

    def emit_all(self, group: Iterable[Event]) -> None:
        """Writes down several events in one commit; returns when all entries would survive a power cut.

        Raises:
            CheckpointError: there are acts among them that could not be written down, so none of them must be
                done; the others wait.
        """
        now = float(self._clock())
        told = [(event.is_act, Entry.of(event, now)) for event in group if event.is_recorded]
        if not told:
            return
        with self._turn:  # all at once, so that one commit holds them, also where it is tried again
            tickets = range(self._tickets + 1, self._tickets + 1 + len(told))
            self._tickets = tickets[-1]
            self._waiting += zip(tickets, (entry for _, entry in told), strict=True)
        try:
            self._write_up_to(tickets[-1])
        except CheckpointError:
            acts = {ticket for ticket, (is_act, _) in zip(tickets, told, strict=True) if is_act}
            if acts and self._withdraw(acts):
                raise

    def settle(self) -> AuditAnchor | None:
        """Writes what waits; returns the last entry, for a manifest to name. None: there is none.

        Raises:
            CheckpointError: something waits and cannot be written.
        """
        self._write_up_to(self._tickets)
        return self._last

    def told(self, event: type[E], holding: str = "") -> list[E]:
        """All events of one class that are in it, oldest first; only those whose facts hold a text.

        Raises:
            AuditUnreadable: the file cannot be read any more.
        """
        try:
            with snapshot(self.path) as stored:
                kept = (sealed for sealed in stored.of_kind(kind_of(event)) if holding.encode() in sealed)
                entries = [Entry.read(sealed) for sealed in kept]
        except FileNotFoundError:
            return []
        return [decode(event, entry.facts) for entry in entries]

    def close(self) -> None:
        """Writes what waits and lets go of the file.

        Raises:
            CheckpointError: something waited and could not be written.
        """
        try:
            if not self._is_closed and os.getpid() == self._pid:
                self.settle()
        finally:
            self._is_closed = True
            if self._table is not None and os.getpid() == self._pid:
                self._table.close()
            self._table = None

    def _write_up_to(self, ticket: int) -> None:
        """One thread writes for all that wait; the others wait until theirs is written, or their turn."""
        with self._turn:
            while self._written < ticket and self._is_writing:
                self._turn.wait()
            batch = self._waiting
            if self._written >= ticket or not batch:
                return
            self._waiting, self._is_writing = [], True
        is_written = False
        try:
            self._commit([entry for _, entry in batch])
            is_written = True
        finally:
            with self._turn:
                self._is_writing = False
                if is_written:
                    self._written = batch[-1][0]
                else:
                    self._waiting = batch + self._waiting
                self._turn.notify_all()

    def _withdraw(self, tickets: Set[int]) -> bool:
        """Takes entries of one group back that were not written; False if another thread has written them."""
        with self._turn:
            while self._is_writing:
                self._turn.wait()
            kept = [one for one in self._waiting if one[0] not in tickets]
            is_unwritten, self._waiting = len(kept) < len(self._waiting), kept
        return is_unwritten

    def _commit(self, batch: list[Entry]) -> None:
        if self._is_closed or os.getpid() != self._pid:
            raise CheckpointError(
                f"The audit {self.path} is not open in this process, so {batch[0].kind} was not written down."
            )
        number, before = (0, NOTHING) if self._last is None else (self._last.number, self._last.digest)
        rows = []
        for entry in batch:
            number += 1
            sealed = entry.sealed(Link(self._run, number, before), self._ring)
            before = digest_of(sealed)
            rows.append((number, sealed))
        last = AuditAnchor(number=number, digest=before)
        head = self._ring.seal(HEAD_PURPOSE, head_text(self._run, last))
        try:
            self._table = self._table or AuditTable(self.path)
            self._table.append(rows, head)
        except (sqlite3.Error, OSError) as error:
            raise CheckpointError(
                f"The audit {self.path} cannot be written: {error}. What must be in it first is not done; "
                "what was written before is intact. Free some space, or make it writable."
            ) from error
        self._last = last
        self.commits += 1


def open_audit(
    run_dir: Path,
    ring: KeyRing,
    run: str,
    catalog: CheckpointCatalog,
    storage: Storage,
    sink: Sink,
    clock: Callable[[], float],
) -> Audit:
    """The audit of a run, to go on with; only the holder of the writer lock may call this.

    One that does not verify is never continued: it is set aside and told, and the first entry of the next
    one says so for good.

    Raises:
        OSError: it cannot be set aside.
    """
    path = run_dir / AUDIT_FILE
    take_back_first_commit(path)
    report = examine(path, ring, run, catalog.anchors())
    if report.can_go_on:
        return Audit(path, ring, run, clock, report.last)
    aside = aside_path(path) if os.path.lexists(path) else None
    for suffix in COMPANIONS if aside else ():
        if os.path.lexists(f"{path}{suffix}"):
            storage.rename(path.with_name(f"{path.name}{suffix}"), Path(f"{aside}{suffix}"))
    storage.sync_directory(run_dir)
    lost = AuditAnchor(number=report.expected, digest=NOTHING)
    audit = Audit(path, ring, run, clock, lost)
    problems = tuple(finding.text for finding in report.findings)
    replaced = events.AuditReplaced("" if aside is None else aside.name, problems)
    audit.emit(replaced)
    sink.emit(replaced)
    return audit
