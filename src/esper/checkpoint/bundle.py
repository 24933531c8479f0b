"""A directory of files that leaves its run: durable as a whole, and verified without any key.

Beside the files lies `BLAKE3SUMS`, one line for each, as the tool `b3sum` writes and checks them. It tells
damage from what was saved; it does not tell who saved it.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from esper.checkpoint.commit import KeyFor, commit_directory
from esper.checkpoint.content import FileContent
from esper.checkpoint.digests import WHOLE
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.layout import TEMPORARY_PREFIX
from esper.checkpoint.manifest import FILE_NAME, FileEntry
from esper.checkpoint.reading import read_regular
from esper.checkpoint.storage import PosixStorage, Storage, make_directories, try_to_remove
from esper.errors import CheckpointCorrupt

SUMS_FILE = "BLAKE3SUMS"
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({FILE_NAME.pattern})")
_MAX_BYTES = 1 << 20


class SharedStorage(PosixStorage):
    """For what others may read: the umask alone decides."""

    file_mode = 0o666
    directory_mode = 0o777


SHARED: Storage = SharedStorage()


def write_bundle(
    directory: Path,
    files: Mapping[str, FileContent],
    *,
    check: Callable[[Path], None] = lambda _: None,
    storage: Storage = SHARED,
) -> tuple[Path, ...]:
    """Commits files as one directory, by the protocol of checkpoints.

    Args:
        directory: a name that is free, or an empty directory.
        files: file name to content.
        check: looks at the files while they lie under no name yet; what it raises takes them back.
        storage: the system calls.

    Returns:
        What writers of the same directory had left beside it when they were killed, and is removed now.

    Raises:
        OSError: nothing was written.
    """
    make_directories(storage, directory.parent)
    swept = _sweep(storage, directory)
    with ExitStack() as locks:

        def begun(making: Path, _: KeyFor) -> Mapping[str, FileEntry]:
            with suppress(OSError):  # a file system without locks: then nobody sweeps here either
                locks.enter_context(_locked(making))
            return {}

        def clear_the_way(making: Path) -> None:
            check(making)
            if directory.exists():
                storage.remove_directory(directory)  # empty, or this fails

        commit_directory(
            storage,
            directory,
            files,
            _sums,
            begun=begun,
            before_rename=clear_the_way,
            last=SUMS_FILE,
            shard_bytes=WHOLE,
        )
    return swept


def bundled(directory: Path, name: str) -> FileRef | None:
    """A file of a bundle by its digest; None if there are no digests: it was never a bundle.

    Raises:
        CheckpointCorrupt: the list of digests is damaged, or the file is missing in it or beside it.
    """
    path = directory / SUMS_FILE
    try:
        text = read_regular(path, _MAX_BYTES).decode()
        lines = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
        size = (directory / name).stat().st_size
    except FileNotFoundError:
        if not path.exists():
            return None
        raise CheckpointCorrupt(f"{directory} holds no {name}, and {SUMS_FILE} tells that it did.") from None
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read ({error}). Copy the directory again.") from error
    digests = {line[2]: line[1] for line in lines if line is not None}
    if None in lines or not text.endswith("\n") or name not in digests:
        raise CheckpointCorrupt(
            f"{path} is damaged: it does not hold one digest for each file. Copy the directory again from "
            "where it was saved, or save it again."
        )
    return FileRef(directory / name, size, digests[name])


def _sweep(storage: Storage, directory: Path) -> tuple[Path, ...]:
    """Removes what killed writers of a bundle left beside it; what one is still making is locked by it."""
    left = re.compile(rf"{re.escape(TEMPORARY_PREFIX + directory.name)}-\d+-[0-9a-f]{{8}}")
    swept = []
    with suppress(OSError):  # who cannot list the place can still write there, and debris hurts nobody
        for name in storage.list(directory.parent):
            path = directory.parent / name
            if left.fullmatch(name):
                with suppress(OSError), _locked(path):
                    if not try_to_remove(storage, path):
                        swept.append(path)
    return tuple(swept)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a directory, which ends with this process; OSError if another holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _sums(entries: Mapping[str, FileEntry]) -> bytes:
    return "".join(f"{entry.blake3}  {name}\n" for name, entry in sorted(entries.items())).encode()
