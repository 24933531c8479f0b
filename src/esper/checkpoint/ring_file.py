"""The key ring on disk: created once and for the owner's eyes only, replaced as a whole when keys rotate."""

from __future__ import annotations

import binascii
import fcntl
import os
import re
import secrets
import shlex
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.checkpoint.crypto import Key, KeyRing, KeyState
from esper.checkpoint.reading import open_regular
from esper.checkpoint.storage import POSIX, Storage, make_directories, settle_names, try_to_remove
from esper.checkpoint.writing import put_in_place, written_beside
from esper.errors import CheckpointMissing, ConfigError
from esper.nissa import LOGGER, Sink, events

ENVIRONMENT_VARIABLE = "ESPER_KEY_RING"
COMMAND_PREFIX = "exec:"
_COMMAND_SECONDS = 60.0
MAX_RING_BYTES = 1 << 20
_ATTEMPTS = 5


class _KeyRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: str
    state: str
    secret: str


class _RingRecord(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    version: int
    keys: list[_KeyRecord]


def ring_path(run_dir: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the key ring of a run is: `ESPER_KEY_RING` if set, else `keys/ring.json` in the run directory."""
    named = environment.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else run_dir / "keys" / "ring.json"


@contextmanager
def key_ring_to_change(
    run_dir: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[Path, KeyRing]]:
    """The ring of a run and the file that a change of it is written to, for one process at a time.

    Runs may share a ring, so that the lock of a run is not enough: of two changes at once, one would be lost,
    and with it all that it has wrapped. Where the file is a link, it is the one that the link leads to.

    Raises:
        CheckpointMissing: there is none.
        ConfigError: the ring comes from a command, cannot be read or written, or another process changes it.
    """
    if command := _command(environment):
        raise ConfigError(
            f"The key ring comes from a command ({command[0]}, by {ENVIRONMENT_VARIABLE}), so it is changed "
            "where that keeps it. Nothing was changed."
        )
    open_key_ring(run_dir, environment=environment)  # refuses what is missing, no ring, or open to others
    path = ring_path(run_dir, environment).resolve()
    try:
        file = path.open("r+b", buffering=0)
    except OSError as error:
        raise ConfigError(f"The key ring {path} cannot be changed: {error.strerror}.") from error
    with file:
        if not _is_locked(file, path):
            raise ConfigError(
                f"The key ring {path} is being changed by another process. Nothing was changed: try again "
                "when that is over."
            )
        yield path, read_key_ring(path)


def open_key_ring(
    run_dir: Path,
    *,
    create: bool = False,
    environment: Mapping[str, str] = os.environ,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    storage: Storage = POSIX,
    sink: Sink = LOGGER,
) -> KeyRing:
    """Reads the key ring of a run; with `create`, makes one on first use.

    Two processes that start at once get the same ring: only one of them creates it. With `create`, the ring
    is durable on return, and copies of it that a killed process left are removed; what stays is told.

    Raises:
        CheckpointMissing: there is none and `create` is False.
        ConfigError: the file is open to other users, or is not a key ring.
    """
    if command := _command(environment):
        return _supplied(command)
    path = ring_path(run_dir, environment)
    if create:
        try:
            _make(path, random_bytes, storage, sink)
        except OSError as error:
            raise ConfigError(
                f"The key ring {path} cannot be created: {error.strerror} (at {error.filename}). Checkpoints "
                "are sealed with it, so choose a run directory that can be written, or set "
                f"{ENVIRONMENT_VARIABLE} to an existing key ring."
            ) from error
    try:
        return read_key_ring(path)
    except FileNotFoundError as error:
        raise CheckpointMissing(
            f"No key ring at {path}, so nothing in {run_dir} can be verified. Name the run directory "
            f"that was used for training, or set {ENVIRONMENT_VARIABLE} to the key ring file of that run."
        ) from error


def read_key_ring(path: Path) -> KeyRing:
    """Reads one key ring file; a missing file raises FileNotFoundError, a wrong one ConfigError."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"The key ring {path} cannot be opened: {error.strerror}. Make it readable, or set "
            f"{ENVIRONMENT_VARIABLE} to another key ring."
        ) from error
    with file:
        status = os.fstat(file.fileno())
        _check_place(path, status)
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError(
                f"The key ring {path} can be opened by other users (mode "
                f"{stat.S_IMODE(status.st_mode):04o}). Whoever reads it can forge checkpoints: run `chmod "
                f"600 {path}`, and rotate the key if others had it."
            )
        return _read(file.read(MAX_RING_BYTES), str(path))


def _is_locked(file: FileIO, path: Path) -> bool:
    """Locks an open file, and sees whether it is still that of its name: a change puts another one there."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise ConfigError(f"The key ring {path} cannot be locked: {error.strerror}.") from error


def _command(environment: Mapping[str, str]) -> list[str]:
    """The words of the command that supplies the ring; none where a file does."""
    named = environment.get(ENVIRONMENT_VARIABLE, "")
    if not named.startswith(COMMAND_PREFIX):
        return []
    try:
        words = shlex.split(named.removeprefix(COMMAND_PREFIX))
    except ValueError as error:
        raise ConfigError(f"{ENVIRONMENT_VARIABLE} is no command: {error} in {named!r}.") from error
    if not words:
        raise ConfigError(f"{ENVIRONMENT_VARIABLE} names no command behind {COMMAND_PREFIX!r}.")
    return words


def _supplied(command: Sequence[str]) -> KeyRing:
    """The ring that a command writes to its standard output."""
    what = f"The command that supplies the key ring ({command[0]}, by {ENVIRONMENT_VARIABLE})"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{what} gave none: {error}. Nothing was changed.") from None
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise ConfigError(f"{what} ended with exit code {done.returncode}: {last or 'it said nothing'}")
    return _read(done.stdout[:MAX_RING_BYTES], f"What {command[0]} wrote")


def _check_place(path: Path, status: os.stat_result) -> None:
    """Refuses a ring that somebody else owns, or could put another one in the place of."""
    directory = path.resolve().parent.stat()
    is_open = stat.S_IMODE(directory.st_mode) & 0o022 and not directory.st_mode & stat.S_ISVTX
    if is_open:
        raise ConfigError(
            f"Other users can write the directory of the key ring {path}, and so put another one there: run "
            f"`chmod go-w {path.resolve().parent}`."
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"The key ring {path} belongs to another user ({status.st_uid}). Take a copy of your own."
        )


def _read(raw: bytes, source: str) -> KeyRing:
    try:
        record = _RingRecord.model_validate_json(raw)
        if record.version != 1:
            raise ConfigError(
                f"{source} has version {record.version} of a key ring; this Esper reads version 1."
            )
        return KeyRing(tuple(Key(k.id, KeyState(k.state), binascii.unhexlify(k.secret)) for k in record.keys))
    except ConfigError:
        raise
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"{source} is not a key ring ({type(error).__name__}). Restore it from a copy: without it no "
            f"checkpoint that it sealed can be verified."
        ) from None  # the cause would print the file's content, which is secret


def replace_key_ring(path: Path, ring: KeyRing, storage: Storage = POSIX) -> None:
    """Puts a rotated ring in the place of the old one, in one step: a reader sees the old or the new."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            put_in_place(storage, path, _content(ring))
        except FileNotFoundError:  # a process that was just starting took the new file for debris
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _make(path: Path, random_bytes: Callable[[int], bytes], storage: Storage, sink: Sink) -> None:
    """Makes a ring unless there is one, makes its name durable, and removes copies that a kill left."""
    if not os.path.lexists(path):
        make_directories(storage, path.parent)
        try:
            with written_beside(storage, path, _content(KeyRing.fresh(random_bytes))) as (new, _):
                storage.link(new, path)  # fails if another was faster: it appears whole, and only once
        except (FileExistsError, FileNotFoundError):  # the other may also have swept the new file away
            if not path.exists():
                raise
    settle_names(storage, path)
    _sweep(path, storage, sink)


def _sweep(path: Path, storage: Storage, sink: Sink) -> None:
    """Removes copies of the secrets that were being written when a process was killed.

    Nobody needs one while the ring is there: who is making it at this moment finds that it exists.
    """
    copy = re.compile(rf"\.(tmp-)?{re.escape(path.name)}-\d+-[0-9a-f]{{8}}")
    for name in storage.list(path.parent) if os.access(path.parent, os.R_OK) else ():
        if copy.fullmatch(name) and (why := try_to_remove(storage, path.parent / name)):
            sink.emit(events.SecretsLeft(why))


def _content(ring: KeyRing) -> bytes:
    record = _RingRecord(
        version=1, keys=[_KeyRecord(id=k.id, state=k.state.value, secret=k.secret.hex()) for k in ring.keys]
    )
    return record.model_dump_json(indent=1).encode()
