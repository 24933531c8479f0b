"""A failed system call in one clear paragraph: what, where, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from esper.errors import CheckpointError

_ADVICE = {
    errno.ENOSPC: "the disk is full. Free some space, keep fewer checkpoints, or use another run directory.",
    errno.EDQUOT: "the disk quota is used up. Free some space, keep fewer checkpoints, or ask for more.",
    errno.EROFS: "the file system is read-only. Choose a run directory that can be written.",
    errno.EACCES: "permission is denied. Choose a run directory that this user can write.",
    errno.EPERM: "the operation is not permitted. Choose a run directory that this user can write.",
    errno.ENOTDIR: "a file stands where a directory is needed. Choose another run directory.",
    errno.EEXIST: "something of that name is in the way. Move it, or use another run directory.",
}


def explain(what: str, error: OSError) -> str:
    """The paragraph for `what` did not happen; notes on the error tell what cleaning up could not remove."""
    number = error.errno or 0
    unknown = f"{error.strerror or error}. The disk or the network file system may be failing: check it."
    where = "" if error.filename is None else f" (at {error.filename})"
    notes = getattr(error, "__notes__", [])
    kept = " ".join(notes) or "What had been begun was removed; everything committed before is intact."
    return (
        f"{what}: {_ADVICE.get(number, unknown)}{where} {kept} [{errno.errorcode.get(number, 'no number')}]"
    )


@contextmanager
def explained(what: str) -> Iterator[None]:
    """An error of the system inside of it becomes a CheckpointError that says that `what` did not happen."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(explain(what, error)) from error
