"""Two calls of Linux that Python does not offer: room for a file ahead, and writing that begins early.

Both only make a save quicker. Where the system or the file system has no such call, nothing happens.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

_KEEP_SIZE = 1
_WRITE = 2
_NOT_HERE = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ESPIPE, errno.ENODEV, errno.EPERM})

_C = ctypes.CDLL(None, use_errno=True)


def _found(name: str, *types: type) -> Callable[..., int] | None:
    call = getattr(_C, name, None)
    if call is not None:
        call.argtypes = types
    return call


_FALLOCATE = _found("fallocate", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_WRITE_RANGE = _found("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def take_room(descriptor: int, size: int) -> None:
    """Reserves room on the disk for the first `size` bytes of a file, whose length stays as it is.

    Raises:
        OSError: there is not so much room.
    """
    _do(_FALLOCATE, descriptor, _KEEP_SIZE, 0, size)


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Has the system begin to write this part of a file to the disk, and does not wait for it.

    Promises nothing: only a sync does.

    Raises:
        OSError: it cannot be written.
    """
    _do(_WRITE_RANGE, descriptor, start, size, _WRITE)


def _do(call: Callable[..., int] | None, *arguments: int) -> None:
    while call is not None and call(*arguments):
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
