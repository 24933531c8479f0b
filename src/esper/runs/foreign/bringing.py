"""A file that others wrote becomes files that are safe to load: read confined, checked, renamed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from esper.anatomy.archive import read_program
from esper.checkpoint import map_tensors
from esper.errors import CheckpointCorrupt, CheckpointError, ConfigError
from esper.runs.foreign.reading import LENGTH, PROGRAM, TENSORS, pieces
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


@dataclass(frozen=True)
class Brought:
    """What was imported.

    Args:
        files: what was written.
        document: what `content.json` holds.
        how: what the reading process could do, in a sentence.
    """

    files: tuple[Path, ...]
    document: dict[str, Any]
    how: str


def bring(path: Path, out: Path, *, unconfined: bool = False) -> Brought:
    """Reads a file of `torch.save` or `torch.export.save`, and writes safe ones into a new folder.

    Args:
        path: the file; nobody has to trust it.
        out: a folder that is not there yet.
        unconfined: read it in a process that may do what this account may do.

    Raises:
        CheckpointCorrupt: it was refused; what stood in the way is named, and nothing is left of it.
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
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}. Nothing was read.") from error
    try:
        brought = _brought(path, building, is_confined=not unconfined)
        if out.exists():
            raise ConfigError(
                f"{out} has come to be there meanwhile. Nothing was written; name a new folder."
            )
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    files = tuple(out / file.name for file in brought.files)
    return Brought(files, brought.document, brought.how)


def _brought(path: Path, folder: Path, *, is_confined: bool) -> Brought:
    with _opened(path) as file, tempfile.TemporaryFile(dir=folder) as answer:
        size = os.fstat(file.fileno()).st_size
        room = _FACTOR * size + _ROOM_BYTES
        caps = Caps(room, _SECONDS + size // _BYTES_PER_SECOND, room)
        ended = run_confined(pieces, file, answer, caps, is_confined=is_confined)
        if isinstance(ended, Stopped):
            raise CheckpointCorrupt(
                f"{path} was not imported: {_reason(ended, caps)}. Nothing of it was kept. Load it where you "
                "trust who wrote it, and save there a dict of tensors and numbers, such as a state_dict."
            )
        answer.seek(0)
        return _written(path, folder, answer, _how(ended))


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
        return f"it cannot be read ({stopped.text})"
    if stopped.kind is Kind.DIED:
        return f"the process that read it died ({stopped.text}), of damage in it or of too little memory"
    limits = {
        Kind.MEMORY: f" (over {caps.memory_bytes >> 20} MiB)",
        Kind.TIME: f" (over {caps.seconds} seconds)",
        Kind.SIZE: f" (over {caps.answer_bytes >> 20} MiB)",
    }
    return f"{_WANTED[stopped.kind]}{limits.get(stopped.kind, '')} and was stopped"


def _how(ended: Confined) -> str:
    if not ended.is_filtered:
        return "Read without confinement, as asked: what was in it could do what your account may do."
    if not ended.is_narrowed:
        return (
            "Read in a process that could write, connect and start nothing; this kernel has no landlock, so "
            "it could read what your account may read."
        )
    return "Read in a process that could write, connect, start nothing, and read nothing else of yours."


def _written(path: Path, folder: Path, answer: IO[bytes], how: str) -> Brought:
    """Writes what was answered, once this process has looked at all of it."""
    try:
        document = _document(answer)
        kind = document["kind"]
        content = folder / _FILES[kind]
        with content.open("xb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        count = len(map_tensors(content)) if kind == TENSORS else _count(content)
        if count != document["tensors"]:
            raise ValueError(f"{count} tensors came of {document['tensors']}")
        description = folder / CONTENT_FILE
        with description.open("x", encoding="utf-8") as text:
            text.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
            text.flush()
            os.fsync(text.fileno())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CheckpointError) as error:
        raise CheckpointCorrupt(
            f"{path} was not imported: what the confined process made of it is not whole ({error}). Nothing "
            "of it was kept; do not load that file anywhere."
        ) from error
    return Brought((content, description), document, how)


def _document(answer: IO[bytes]) -> dict[str, Any]:
    (length,) = LENGTH.unpack(answer.read(LENGTH.size).ljust(LENGTH.size, b"\xff"))
    if length > _MOST_DOCUMENT:
        raise ValueError(f"a description of {length} bytes; at most {_MOST_DOCUMENT} are read")
    document = json.loads(answer.read(length))
    left_out = document["left_out"]
    if not all(isinstance(why, str) and why.isprintable() for why in left_out.values()):
        raise TypeError("reasons that are no text")
    return dict(document)


def _count(content: Path) -> int:
    return len(read_program(content.read_bytes()).program.state_dict)
