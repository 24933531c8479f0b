"""Reading what others may have put there: regular files only, by calls that neither wait nor kill.

A named pipe in the place of a file would be waited for without end, and a mapped page that cannot be read (a
file cut meanwhile, a bad sector, a stale network handle) ends the process by SIGBUS.
"""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path


def open_regular(path: Path) -> FileIO:
    """Opens a regular file for reading, without a buffer.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device, a socket or a directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return FileIO(descriptor, "rb")


def read_regular(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file, but never more than `limit` of them."""
    pieces: list[bytes] = []
    with open_regular(path) as file:
        if limit is None:
            return file.readall()
        while limit and (piece := file.read(limit)):
            pieces.append(piece)
            limit -= len(piece)
    return b"".join(pieces)
