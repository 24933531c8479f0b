"""The file of the audit: one SQLite database with sealed entries by number, and a sealed head."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from esper.checkpoint.storage import POSIX, settle_names
from esper.errors import CheckpointError

AUDIT_FILE = "audit.sqlite"
_FIRST_COMMIT = "-journal"
"""Beside a database whose maker was cut off in its first commit: later ones are in the write-ahead log."""
COMPANIONS = ("", "-wal", "-shm", _FIRST_COMMIT)
"""What SQLite adds to the name of a database for its files."""
_VERSION = 1
_TABLES = {
    "entries": "CREATE TABLE entries (place INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
    "head": "CREATE TABLE head (place INTEGER PRIMARY KEY CHECK (place = 0), sealed BLOB NOT NULL)",
}
_WAIT_SECONDS = 30.0


class AuditUnreadable(CheckpointError):
    """The file is there and is no audit, or not one that can be read."""


class AuditTable:
    """The database, open to be written; it is made if it is not there.

    A commit returns when it would survive a power cut: it is in the write-ahead log, which was synced.

    Raises:
        sqlite3.Error, OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path) -> None:
        # With its mode from the beginning, which SQLite takes over for what it puts beside it.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        # Autocommit; several threads write, one after another.
        self._connection = sqlite3.connect(path, _WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        self._run("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
        if not _tables(self._connection):  # it is new, or its maker was killed
            self._run("BEGIN", *_TABLES.values(), f"PRAGMA user_version = {_VERSION}", "COMMIT")
        settle_names(POSIX, path)

    def _run(self, *statements: str) -> None:
        for statement in statements:
            self._connection.execute(statement)

    def append(self, rows: Sequence[tuple[int, bytes]], head: bytes) -> None:
        """Adds entries by number and puts the new head in the place of the old one, all or nothing."""
        try:
            self._run("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO entries VALUES (?, ?)", rows)
            self._connection.execute("INSERT OR REPLACE INTO head VALUES (0, ?)", (head,))
            self._run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._run("ROLLBACK")
            raise

    def close(self) -> None:
        """Writes the log into the database, so that one file holds everything."""
        self._connection.close()


class AuditSnapshot:
    """The database as it was at one moment, open to be read; what it holds is not believed yet."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, *, newest_first: bool = False) -> Iterator[tuple[int, bytes]]:
        """Place and sealed bytes of every entry."""
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT place, sealed FROM entries ORDER BY place {order}"  # noqa: S608
        for place, sealed in self._connection.execute(query):
            yield int(place), _bytes(sealed)

    def of_kind(self, kind: str) -> Iterator[bytes]:
        """The sealed bytes of every entry of one kind, in order; of the others not all is read."""
        mark = f'"kind": "{kind}"'.encode()
        begins = "SELECT sealed FROM entries WHERE instr(substr(sealed, 1, 256), ?) ORDER BY place"
        yield from (_bytes(sealed) for (sealed,) in self._connection.execute(begins, (mark,)))

    def head(self) -> bytes | None:
        row = self._connection.execute("SELECT sealed FROM head").fetchone()
        return None if row is None else _bytes(row[0])


@contextmanager
def snapshot(path: Path) -> Iterator[AuditSnapshot]:
    """Opens an audit to read it, also while a run writes it.

    Raises:
        FileNotFoundError: there is none, or a cut left a part of its first commit.
        AuditUnreadable: it is no audit, or cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise AuditUnreadable(f"{path} is not a regular file, so it is no audit")
    # Without a log beside it nobody writes it, and it may lie where nothing can be written.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    try:
        with closing(
            sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}", _WAIT_SECONDS, isolation_level=None, uri=True
            )
        ) as connection:
            # What a stranger may have put into the file runs nothing, and is nothing but these tables.
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("BEGIN")
            _check(connection, path)
            yield AuditSnapshot(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # SQLite quotes damaged names as they are
        if path.with_name(path.name + _FIRST_COMMIT).exists():
            raise FileNotFoundError(errno.ENOENT, "There is nothing in it yet", str(path)) from error
        raise AuditUnreadable(f"{path} cannot be read: {error}") from error


def take_back_first_commit(path: Path) -> None:
    """Lets SQLite empty a database again that a cut left in its first commit; only its writer may."""
    if path.with_name(path.name + _FIRST_COMMIT).exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(path, _WAIT_SECONDS)) as connection:
            _tables(connection)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise AuditUnreadable(
            f"{path} has version {version}, and this Esper reads version {_VERSION}: use a newer one"
        )
    tables = _tables(connection)
    if not tables:
        raise FileNotFoundError(errno.ENOENT, "There is nothing in it yet", str(path))
    if tables != _TABLES:
        raise AuditUnreadable(f"{path} holds other tables than an audit: {', '.join(map(str, tables))}")


def _tables(connection: sqlite3.Connection) -> dict[str, str | None]:
    return dict(connection.execute("SELECT name, sql FROM sqlite_master"))


def _bytes(value: object) -> bytes:
    """A value of a column; the database may hold one of any type there."""
    if isinstance(value, bytes):
        return value
    return value.encode(errors="surrogateescape") if isinstance(value, str) else b""
