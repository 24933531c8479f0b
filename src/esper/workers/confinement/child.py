"""What runs in the confined process: it shuts itself in, calls one function on one open file, and answers."""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from esper.errors import EsperError
from esper.workers.confinement import filters, kernel
from esper.workers.confinement.ending import Kind

_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system",
    "/dev/urandom",
    "/dev/null",
)
"""What the C library, the loader and torch read of a system."""
_KINDS = {
    filters.WRITE: Kind.WRITE,
    filters.CONNECT: Kind.CONNECT,
    filters.START: Kind.START,
    filters.UNKNOWN: Kind.OTHER,
    errno.EACCES: Kind.READ,
    errno.ENOMEM: Kind.MEMORY,
}
_MOST_TEXT = 2000


def main(request: str) -> None:
    """Does what the request asks and ends the process.

    Args:
        request: JSON with `module` and `function`, `parent` (a process id), `memory_bytes`, `seconds`,
            `is_confined`, and the descriptor `verdict`. The file is standard input, the answer goes to
            standard output.
    """
    asked = json.loads(request)
    kernel.die_with(asked["parent"])
    verdict = _verdict(asked)
    os.write(asked["verdict"], json.dumps(verdict).encode())
    os._exit(0)  # nothing that was built of the file gets to run while the interpreter ends


def _verdict(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        function: Callable[[BinaryIO], Iterable[Any]] = getattr(
            importlib.import_module(asked["module"]), asked["function"]
        )
        kernel.limit(asked["memory_bytes"], asked["seconds"])
        is_narrowed = False
        if asked["is_confined"]:
            is_narrowed = _is_alone() and kernel.read_only(_readable())
            kernel.only_read_calls()
        with open(0, "rb", closefd=False) as file, open(1, "wb", buffering=0, closefd=False) as answer:
            for piece in function(file):
                _write_all(answer.fileno(), memoryview(piece))
    except BaseException as error:  # noqa: BLE001  (whatever it is, only its name and text leave this process)
        return {"kind": _kind(error), "text": _words(error)[:_MOST_TEXT]}
    return {"kind": None, "is_narrowed": is_narrowed}


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, EsperError) else f"{type(error).__name__}: {error}"


def _kind(error: BaseException | None) -> Kind:
    """What stood in the way, by the innermost error that the filter gave, or the last."""
    while error is not None:
        text = str(error)
        if isinstance(error, MemoryError) or "can't allocate memory" in text or "bad_alloc" in text:
            return Kind.MEMORY
        if isinstance(error, OSError) and error.errno in _KINDS:
            return _KINDS[error.errno]
        error = error.__cause__ or error.__context__
    return Kind.UNREADABLE


def _is_alone() -> bool:
    """Whether this is the only thread: rules of landlock bind who makes them, and what is started after."""
    return len(list(Path("/proc/self/task").iterdir())) == 1


def _readable() -> list[Path]:
    """The interpreter, its libraries, and the folders of the code that is to run."""
    folders = [sys.prefix, sys.base_prefix, *sys.path]
    folders += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return [Path(name) for name in (*folders, *_SYSTEM) if name and Path(name) != Path("/")]


def _write_all(descriptor: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(descriptor, piece[: 1 << 20]) :]
