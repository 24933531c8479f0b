"""The file of a journal: made once, opened by many, and refused when it is not what it should be."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from esper.errors import BusError

_MARK = 0x65736F6E
"""`application_id` of a journal, so that no other SQLite file is taken for one."""
_FORM = 1
_WAIT_SECONDS = 10.0
_CHECKPOINT_PAGES = 4_000
"""Of 4 KiB: how long the write-ahead log grows before it is copied into the file."""
_TABLES = """
CREATE TABLE topics (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, records INTEGER NOT NULL DEFAULT 0,
    shed INTEGER NOT NULL DEFAULT 0, expired INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE records (
    number INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, priority INTEGER NOT NULL, key TEXT,
    until REAL NOT NULL, checksum INTEGER NOT NULL, raw BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX by_key ON records (topic, key) WHERE key IS NOT NULL;
CREATE INDEX by_priority ON records (topic, priority);
CREATE TABLE groups (
    number INTEGER PRIMARY KEY, topic INTEGER NOT NULL, name TEXT NOT NULL, UNIQUE (topic, name)
) STRICT;
CREATE TABLE positions (
    "group" INTEGER NOT NULL, priority INTEGER NOT NULL, record INTEGER NOT NULL,
    PRIMARY KEY ("group", priority)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    "group" INTEGER NOT NULL, record INTEGER NOT NULL, ends REAL NOT NULL, attempt INTEGER NOT NULL,
    PRIMARY KEY ("group", record)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT, "group" INTEGER NOT NULL, deliveries INTEGER NOT NULL,
    at_seconds REAL NOT NULL, reason TEXT NOT NULL, raw BLOB NOT NULL
) STRICT;
"""


class JournalFile:
    """A connection to the file of a journal, for one thread at a time.

    Args:
        path: of the file, which is made if it is not there.

    Raises:
        BusError: it cannot be made or used, or is something else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        with self._clearly():
            _make(path)
            # Percent signs and question marks mean something in a URI.
            address = f"{path.absolute().as_uri()}?mode=rwc"
            self._connection = sqlite3.connect(
                address, _WAIT_SECONDS, isolation_level=None, check_same_thread=False, uri=True
            )
            try:
                self._prepare(self._connection)
            except BaseException:
                self.close()
                raise

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: synced to the disk at the end, or nothing of it happened.

        Raises:
            BusError: it did not work.
        """
        with self._clearly():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For statements that change nothing.

        Raises:
            BusError: it did not work.
        """
        with self._clearly():
            yield self._open()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise BusError(f"The bus {self._path} was closed. Open it again.")
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        self._identify(connection)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise BusError(f"{self._path} cannot have a write-ahead log ({mode}). Put it on a local disk.")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict.rpartition("\n")[2])  # the first line names no damage

    def _identify(self, connection: sqlite3.Connection) -> None:
        """Makes the tables in a file that is new; refuses one that is of somebody else."""
        with self.writing():
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not mark and not tables:
                for statement in _TABLES.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_MARK}")
                connection.execute(f"PRAGMA user_version={_FORM}")
            elif mark != _MARK:
                raise BusError(f"{self._path} is an SQLite file of something else, and is left as it is.")
            elif form != _FORM:
                raise BusError(f"{self._path} has form {form}; this Esper reads form {_FORM}.")

    @contextmanager
    def _clearly(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite quotes damaged names as they are
            raise BusError(f"The bus {self._path} {_words(error)}") from error


def _make(path: Path) -> None:
    """An empty file that only its owner reads, if there is none; what is wrong, SQLite will say."""
    # Not of one that is there: closing it would end the locks that this process has on it elsewhere.
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _words(error: sqlite3.Error | UnicodeDecodeError) -> str:
    """What is wrong with a file, and what to do."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = code & 0xFF if code is not None else None
    match primary:
        case sqlite3.SQLITE_CANTOPEN:
            return "cannot be opened: its folder is not there, or not yours to write in."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return "cannot be written: the file or its folder is read-only. Give write permission."
        case sqlite3.SQLITE_FULL:
            return "cannot be written: the disk is full. Make room; what was acknowledged is still there."
        case sqlite3.SQLITE_IOERR:
            return f"cannot be read or written: its disk fails, or a quota is used up ({error})."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"was held by another process for {_WAIT_SECONDS:.0f} s."
        case sqlite3.SQLITE_NOTADB | None:
            return f"is no journal, or is damaged ({error}). Move it away, and a new one is made."
        case sqlite3.SQLITE_CORRUPT:
            return f"is damaged ({error}). Move it away, and a new one is made."
    return f"cannot be used: {error}."
