"""Files that are there whole or not at all; those of a run are for their owner's eyes only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_OWNER_READS, _OWNER_ENTERS = 0o600, 0o700
_UMASK_DECIDES = 0o666
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_private(path: Path, text: str) -> None:
    """Writes a file of a run, mode 0600; what had that name is there until the new one is whole.

    Raises:
        OSError: it could not be written, and nothing was changed.
    """
    _replace(path, text, _OWNER_READS)


def write_over(path: Path, text: str) -> None:
    """The same for a file that somebody has named: whoever may read it is the umask's affair.

    A device or a pipe is written to as it is.

    Raises:
        OSError: it could not be written, and a file of that name is as it was.
    """
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        path.write_text(text, encoding="utf-8")
    else:
        _replace(Path(os.path.realpath(path)), text, _UMASK_DECIDES)


def write_new(path: Path, pieces: Iterable[str]) -> None:
    """Writes a file under a name that must be free; where that fails the name is free again.

    Raises:
        OSError: it could not be written, or is there already.
    """
    _fill(path, pieces, _UMASK_DECIDES)


def make_private(directory: Path) -> None:
    """Makes a directory, mode 0700, and whatever it lies in; one that is there keeps its mode.

    Raises:
        OSError: it cannot be made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(_OWNER_ENTERS, exist_ok=True)


def hide(file: Path) -> None:
    """Keeps others from reading a file that somebody else's code has made.

    Raises:
        OSError: its mode cannot be changed.
    """
    file.chmod(_OWNER_READS)


def open_plain(path: Path) -> BinaryIO:
    """Opens a file for reading that somebody else may have put there: a pipe or a device could have no end.

    Raises:
        OSError: it cannot be opened, or is no plain file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, "It is no plain file", str(path))


def advice(error: OSError) -> str:
    """What to do about a file that could not be written, as one sentence."""
    if error.errno in _FULL:
        return "Free some space there, or name a file on another disk."
    if error.errno == errno.EEXIST:
        return "Name a new file."
    return "Name a file in a directory that you may write to."


def _replace(path: Path, text: str, mode: int) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)  # of a process that was killed
    _fill(draft, (text,), mode)
    draft.replace(path)


def _fill(path: Path, pieces: Iterable[str], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(pieces)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
