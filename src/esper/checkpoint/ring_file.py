"""The key ring on disk: created once and for the owner's eyes only, replaced as a whole when keys rotate."""

from __future__ import annotations

import binascii
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esper.checkpoint.crypto import Key, KeyRing, KeyState
from esper.checkpoint.storage import PosixStorage, Storage, make_directories
from esper.checkpoint.writing import write_file
from esper.errors import CheckpointMissing, ConfigError

ENVIRONMENT_VARIABLE = "ESPER_KEY_RING"
MAX_RING_BYTES = 1 << 20


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


def open_key_ring(
    run_dir: Path,
    *,
    create: bool = False,
    environment: Mapping[str, str] = os.environ,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> KeyRing:
    """Reads the key ring of a run; with `create`, makes one on first use.

    Two processes that start at once get the same ring: only one of them creates it.

    Raises:
        CheckpointMissing: there is none and `create` is False.
        ConfigError: the file is open to other users, or is not a key ring.
    """
    path = ring_path(run_dir, environment)
    try:
        return read_key_ring(path)
    except FileNotFoundError as error:
        if not create:
            raise CheckpointMissing(
                f"No key ring at {path}, so nothing in {run_dir} can be verified. Name the run directory "
                f"that was used for training, or set {ENVIRONMENT_VARIABLE} to the key ring file of that run."
            ) from error
    try:
        _write_new(path, KeyRing.fresh(random_bytes), PosixStorage())
    except FileExistsError:
        return read_key_ring(path)
    except OSError as error:
        raise ConfigError(
            f"The key ring {path} cannot be created: {error.strerror}. Checkpoints are sealed with it, so "
            f"choose a run directory that can be written, or set {ENVIRONMENT_VARIABLE} to an existing key "
            f"ring."
        ) from error
    return read_key_ring(path)


def read_key_ring(path: Path) -> KeyRing:
    """Reads one key ring file; a missing file raises FileNotFoundError, a wrong one ConfigError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"The key ring {path} cannot be opened: {error.strerror}. Make it readable, or set "
            f"{ENVIRONMENT_VARIABLE} to another key ring."
        ) from error
    with file:
        status = os.fstat(file.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigError(
                f"The key ring {path} can be opened by other users (mode "
                f"{stat.S_IMODE(status.st_mode):04o}). Whoever reads it can forge checkpoints: run `chmod "
                f"600 {path}`, and rotate the key if others had it."
            )
        raw = file.read(MAX_RING_BYTES)
    try:
        record = _RingRecord.model_validate_json(raw)
        if record.version != 1:
            raise ConfigError(
                f"The key ring {path} has version {record.version}; this Esper reads version 1."
            )
        return KeyRing(tuple(Key(k.id, KeyState(k.state), binascii.unhexlify(k.secret)) for k in record.keys))
    except ConfigError:
        raise
    except (ValidationError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a key ring ({type(error).__name__}). Restore it from a copy: without it no "
            f"checkpoint that it sealed can be verified."
        ) from None  # the cause would print the file's content, which is secret


def replace_key_ring(path: Path, ring: KeyRing, storage: Storage | None = None) -> None:
    """Puts a rotated ring in the place of the old one, in one step: a reader sees the old or the new."""
    storage = PosixStorage() if storage is None else storage
    temporary = _write_temporary(path, ring, storage)
    temporary.replace(path)  # the one place where a name is reused: readers always find a whole ring
    storage.sync_directory(path.parent)


def _write_new(path: Path, ring: KeyRing, storage: Storage) -> None:
    make_directories(storage, path.parent)
    temporary = _write_temporary(path, ring, storage)
    try:
        os.link(temporary, path)  # fails if someone was faster, so the file appears complete and only once
    finally:
        storage.remove(temporary)
    storage.sync_directory(path.parent)


def _write_temporary(path: Path, ring: KeyRing, storage: Storage) -> Path:
    record = _RingRecord(
        version=1, keys=[_KeyRecord(id=k.id, state=k.state.value, secret=k.secret.hex()) for k in ring.keys]
    )
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    write_file(storage, temporary, [memoryview(record.model_dump_json(indent=1).encode())])
    return temporary
