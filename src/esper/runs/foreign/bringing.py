"""A file that others wrote becomes files that are safe to load: read confined, checked, committed."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

from esper.anatomy.archive import read_program
from esper.checkpoint import SHARED, FileContent, Storage, map_tensors, write_bundle
from esper.errors import CheckpointCorrupt, CheckpointError, ConfigError
from esper.runs.foreign.reading import LENGTH, NO_PROGRAM, NO_TENSORS, PROGRAM, TENSORS, pieces
from esper.workers.confinement import Caps, Confined, Kind, Stopped, can_filter, run_confined

TENSOR_FILE, PROGRAM_FILE, CONTENT_FILE = "tensors.safetensors", "program.pt2", "content.json"
_FILES = {TENSORS: TENSOR_FILE, PROGRAM: PROGRAM_FILE}
_MOST_DOCUMENT = 256 << 20
_ROOM_BYTES = 1 << 30
_FACTOR = 4
"""A file of tensors takes its own size in memory, tied ones are written twice, a program is held thrice."""
_SECONDS, _BYTES_PER_SECOND = 60, 20 << 20

_WANTED = {
    Kind.WRITE: "it wanted to write to the disk",
    Kind.READ: "it wanted to read other files",
    Kind.CONNECT: "it wanted to connect to something",
    Kind.START: "it wanted to start a program",
    Kind.OTHER: "it wanted something of the system that reading a file does not need",
    Kind.MEMORY: "it took too much memory",
    Kind.TIME: "it took too long",
    Kind.SIZE: "it gave more bytes than such a file can hold",
}


_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space, or name a folder on another disk.",
    errno.EDQUOT: "the disk quota is used up. Free some space, or name a folder on another disk.",
    errno.EROFS: "the file system is read-only. Name a folder that can be written.",
    errno.EACCES: "permission is denied. Name a folder that this account can write.",
    errno.EFBIG: "a file may not be that large here. Name a folder on another disk.",
    errno.ENOTEMPTY: "something has come to be there meanwhile. Name a new folder.",
    errno.EEXIST: "something else is in the way. Name another folder.",
    errno.ENOTDIR: "a file stands where a folder is needed. Name another folder.",
}


@dataclass(frozen=True)
class Brought:
    """What was imported.

    Args:
        files: what was written, without the digests beside it.
        document: what `content.json` holds.
        how: what the reading process could do, in a sentence.
        swept: what imports into the same folder had left when they were killed, and is removed now.
    """

    files: tuple[Path, ...]
    document: dict[str, Any]
    how: str
    swept: tuple[Path, ...] = ()


def bring(path: Path, out: Path, *, unconfined: bool = False, storage: Storage = SHARED) -> Brought:
    """Reads a file of `torch.save` or `torch.export.save`, and writes safe ones into a new folder.

    The folder appears whole and durable, with digests of its files, or not at all.

    Args:
        path: the file; nobody has to trust it.
        out: a folder that is not there yet.
        unconfined: read it in a process that may do what this account may do.
        storage: the system calls that write the folder.

    Raises:
        CheckpointCorrupt: it was refused; what stood in the way is named, and nothing is left of it.
        CheckpointError: `out` cannot be written, such as for a full disk; nothing is left of it.
        ConfigError: it cannot be opened, `out` is there, or this system cannot confine a process.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} is there already. Nothing was read; name a new folder.")
    if not unconfined and not can_filter():
        raise ConfigError(
            "This system cannot confine a process (it takes Linux with seccomp, on x86-64 or 64-bit ARM), "
            f"and {path} may hold what takes a reader over. Nothing was read. Import it on such a system; if "
            "you trust who wrote the file, --unconfined reads it without."
        )
    with _opened(path) as file:
        try:
            return _brought(path, file, out, storage, is_confined=not unconfined)
        except OSError as error:
            unknown = f"{error.strerror or error}. The disk may be failing: check it, or name another folder."
            kept = " ".join(getattr(error, "__notes__", [])) or "Nothing of it was kept."
            raise CheckpointError(
                f"{path} was not imported: {out} cannot be written: {_ADVICE.get(error.errno or 0, unknown)} "
                f"{kept}"
            ) from error


def _brought(path: Path, file: IO[bytes], out: Path, storage: Storage, *, is_confined: bool) -> Brought:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent) as answer:  # it has no name, so a kill leaves nothing of it
        size = os.fstat(file.fileno()).st_size
        room = _FACTOR * size + _ROOM_BYTES
        caps = Caps(room, _SECONDS + size // _BYTES_PER_SECOND, room)
        ended = run_confined(pieces, file, answer, caps, is_confined=is_confined)
        if isinstance(ended, Stopped):
            raise CheckpointCorrupt(
                f"{path} was not imported: {_reason(ended, caps)}. Nothing of it was kept. {_advice(ended)}"
            )
        answer.seek(0)
        return _written(path, out, answer, _how(ended), storage)


def _opened(path: Path) -> IO[bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ConfigError(f"{path} is no regular file but a pipe, a device or a folder. Nothing was read.")
    return os.fdopen(descriptor, "rb")


def _reason(stopped: Stopped, caps: Caps) -> str:
    if stopped.kind is Kind.UNREADABLE:
        return stopped.text if stopped.text.startswith("it ") else f"it cannot be read ({stopped.text})"
    if stopped.kind is Kind.DIED:
        return f"the process that read it died ({stopped.text}), of damage in it or of too little memory"
    limits = {
        Kind.MEMORY: f" (over {caps.memory_bytes >> 20} MiB)",
        Kind.TIME: f" (over {caps.seconds} seconds)",
        Kind.SIZE: f" (over {caps.answer_bytes >> 20} MiB)",
    }
    return f"{_WANTED[stopped.kind]}{limits.get(stopped.kind, '')} and was stopped"


def _advice(stopped: Stopped) -> str:
    if stopped.text.startswith(NO_TENSORS):
        return "Name a file of torch.save, whole, or a .pt2 of torch.export.save."
    where = "Load it where you trust who wrote it, and"
    if stopped.text.startswith(NO_PROGRAM):
        return f"{where} export there a network that only computes."
    return f"{where} save there a dict of tensors and numbers, such as a state_dict."


def _how(ended: Confined) -> str:
    if not ended.is_filtered:
        return "Read without confinement, as asked: what was in it could do what your account may do."
    if not ended.is_narrowed:
        return (
            "Read in a process that could write, connect and start nothing; this kernel has no landlock, so "
            "it could read what your account may read."
        )
    return "Read in a process that could write, connect, start nothing, and read nothing else of yours."


def _written(path: Path, out: Path, answer: BufferedIOBase, how: str, storage: Storage = SHARED) -> Brought:
    """Commits what was answered, once this process has looked at all of it."""
    try:
        document = _document(answer)
        name = _FILES[document["kind"]]
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        files: dict[str, FileContent] = {name: answer, CONTENT_FILE: text.encode()}
        swept = write_bundle(out, files, check=lambda making: _look(making / name, document), storage=storage)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CheckpointError) as error:
        raise CheckpointCorrupt(
            f"{path} was not imported: what the confined process made of it is not whole ({error}). Nothing "
            "of it was kept; do not load that file anywhere."
        ) from error
    return Brought((out / name, out / CONTENT_FILE), document, how, swept)


def _look(content: Path, document: Mapping[str, Any]) -> None:
    """Raises CheckpointError or ValueError unless a file holds what the document says."""
    if document["kind"] == TENSORS:
        count = len(map_tensors(content))
    else:
        count = len(read_program(content.read_bytes()).program.state_dict)
    if count != document["tensors"]:
        raise ValueError(f"{count} tensors came of {document['tensors']}")


def _document(answer: BufferedIOBase) -> dict[str, Any]:
    (length,) = LENGTH.unpack(answer.read(LENGTH.size).ljust(LENGTH.size, b"\xff"))
    if length > _MOST_DOCUMENT:
        raise ValueError(f"a description of {length} bytes; at most {_MOST_DOCUMENT} are read")
    document = json.loads(answer.read(length))
    left_out = document["left_out"]
    if not all(isinstance(why, str) and why.isprintable() for why in left_out.values()):
        raise TypeError("reasons that are no text")
    return dict(document)
