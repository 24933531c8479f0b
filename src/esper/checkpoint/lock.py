"""One writer for each run directory: a lock that dies with its process and that no child inherits."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import weakref
from pathlib import Path

from esper.checkpoint.reading import read_regular
from esper.errors import CheckpointError

_PROCESS = secrets.token_hex(8)  # tells this process from an earlier one with the same number
_LOCK_NAME = ".writer.lock"
_OWNER_NAME = ".writer.json"
_MAX_NOTE_BYTES = 1 << 12


class WriterLock:
    """Held from construction to `release()`, to the end of the process, or until it is garbage.

    A record lock (`lockf`) belongs to the process: a kill frees it at once even if data-loader children live
    on. The same process could take it twice, and closing a second descriptor would drop it, so the owner's
    note is looked at first.

    Raises:
        CheckpointError: another process, or another store in this process, writes to this directory.
    """

    def __init__(self, directory: Path) -> None:
        owner = _read_owner(directory / _OWNER_NAME)
        if owner.get("process") == _PROCESS and owner.get("pid") == os.getpid():
            raise CheckpointError(
                f"{directory} is already being written by this process. Let go of the session that holds it, "
                "`session.detach()` (it can be resumed then), or close the store, before you open another "
                "one on the same run directory."
            )
        descriptor = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a regular file", str(directory / _LOCK_NAME))
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EACCES, errno.EAGAIN):  # nobody holds it: it cannot be locked here
                raise
            raise CheckpointError(
                f"{directory} is being written by process {owner.get('pid', '(unknown)')} on host "
                f"{owner.get('host', '(unknown)')}. Two writers would mix two runs: wait for it to end, or "
                f"use another run directory. (Reading, listing and verifying need no lock.)"
            ) from error
        note = {"pid": os.getpid(), "host": socket.gethostname(), "process": _PROCESS}
        note_path = directory / _OWNER_NAME
        try:
            note_path.unlink(missing_ok=True)  # opening what is there could wait for ever: it may be a pipe
            with os.fdopen(os.open(note_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(note, file)
        except OSError:
            os.close(descriptor)
            raise
        self._pid = os.getpid()
        self._release = weakref.finalize(self, _let_go, descriptor, note_path, os.getpid())

    @property
    def is_held(self) -> bool:
        return self._release.alive and not self.is_inherited

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child: it has the object of its parent, but not the lock."""
        return os.getpid() != self._pid

    def release(self) -> None:
        """Lets another writer in; doing it twice is harmless."""
        self._release()


def _let_go(descriptor: int, note: Path, pid: int) -> None:
    try:
        if os.getpid() == pid:  # a forked child neither holds the lock nor may remove its note
            note.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _read_owner(path: Path) -> dict[str, object]:
    try:
        owner = json.loads(read_regular(path, _MAX_NOTE_BYTES))
    except (OSError, ValueError):  # no note, or one that a crash cut short: the lock itself decides
        return {}
    return owner if isinstance(owner, dict) else {}
