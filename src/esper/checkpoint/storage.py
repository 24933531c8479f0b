"""The system calls that a durable save is made of, behind one small door."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from esper.checkpoint.kernel import begin_writing, take_room


class Storage(Protocol):
    """What the store asks of a file system; every call may raise `OSError`.

    A fake ships beside the real one: `esper.checkpoint.FaultyStorage` fails at a chosen call.
    """

    def list(self, directory: Path) -> list[str]:
        """Names in a directory, sorted; empty when there is no such directory."""
        ...

    def make_directory(self, path: Path) -> None:
        """Creates one directory that must not exist yet."""
        ...

    def create(self, path: Path) -> int:
        """Opens a new file for writing and returns its descriptor; the file must not exist yet."""
        ...

    def write(self, descriptor: int, data: memoryview) -> int:
        """Writes some of the bytes and returns how many: it may be fewer than asked."""
        ...

    def open_to_overwrite(self, path: Path) -> int:
        """Opens a file that is there, to write over bytes of it; returns its descriptor, follows no link."""
        ...

    def write_at(self, descriptor: int, data: memoryview, position: int) -> int:
        """Writes some of the bytes over those at a position; returns how many: it may be fewer."""
        ...

    def reserve(self, descriptor: int, size: int) -> None:
        """Takes room for the first `size` bytes of a file if the file system can; its length stays."""
        ...

    def begin_sync(self, descriptor: int, start: int, size: int) -> None:
        """Has bytes that were written go to the disk from now on; promises nothing, only `sync` does."""
        ...

    def sync(self, descriptor: int) -> None:
        """Returns when the file's bytes would survive a power cut."""
        ...

    def close(self, descriptor: int) -> None:
        """Gives the descriptor back."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Moves a file or directory to a name that must be free."""
        ...

    def replace(self, source: Path, target: Path) -> None:
        """Moves a file over whatever file has that name, in one step: the name is never without a file."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Gives a file a second name that must be free; of two who do that at once, one fails."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Returns when the directory's entries would survive a power cut."""
        ...

    def remove(self, path: Path) -> None:
        """Removes one file."""
        ...

    def remove_directory(self, path: Path) -> None:
        """Removes one empty directory."""
        ...


class PosixStorage:
    """The real file system: for the owner's eyes only, and nothing is ever opened over an existing name."""

    file_mode = 0o600
    directory_mode = 0o700

    def list(self, directory: Path) -> list[str]:
        try:
            return sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []

    def make_directory(self, path: Path) -> None:
        path.mkdir(self.directory_mode)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, self.file_mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data)

    def open_to_overwrite(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def write_at(self, descriptor: int, data: memoryview, position: int) -> int:
        return os.pwrite(descriptor, data, position)

    def reserve(self, descriptor: int, size: int) -> None:
        take_room(descriptor, size)

    def begin_sync(self, descriptor: int, start: int, size: int) -> None:
        begin_writing(descriptor, start, size)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        if os.path.lexists(
            target
        ):  # rename(2) would replace it; only the holder of the writer lock gets here
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        source.rename(target)

    def replace(self, source: Path, target: Path) -> None:
        source.replace(target)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_directory(self, path: Path) -> None:
        path.rmdir()


POSIX: Storage = PosixStorage()
"""The one that everybody takes who is given no other."""


def write_all(storage: Storage, descriptor: int, data: memoryview) -> None:
    """Writes all of the bytes, in as many calls as that takes."""
    _in_calls(lambda rest, _: storage.write(descriptor, rest), data)


def write_over(storage: Storage, descriptor: int, data: memoryview, position: int) -> None:
    """Writes all of the bytes over those at a position, in as many calls as that takes."""
    _in_calls(lambda rest, done: storage.write_at(descriptor, rest, position + done), data)


def _in_calls(write: Callable[[memoryview, int], int], data: memoryview) -> None:
    """Calls `write` with what is left, and how much is done, until nothing is left."""
    done = 0
    while done < len(data):
        count = write(data[done:], done)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO) + " (a write took no bytes)")
        done += count


def make_directory(storage: Storage, path: Path) -> None:
    """Makes a directory unless it is there; its name is durable on return, whoever made it.

    One that is there may be of a process that was killed before it synced the name, or of a sync that failed.
    """
    _make_unless_there(storage, path)
    storage.sync_directory(path.parent)


def make_directories(storage: Storage, path: Path) -> None:
    """Makes a directory and the parents that it lacks; on return all their names are durable."""
    lacking = [directory for directory in (path, *path.parents) if not directory.is_dir()]
    for directory in reversed(lacking):
        _make_unless_there(storage, directory)
    settle_names(storage, path)


def _make_unless_there(storage: Storage, path: Path) -> None:
    try:
        storage.make_directory(path)
    except FileExistsError:
        if not path.is_dir():
            raise


def settle_names(storage: Storage, path: Path) -> None:
    """Makes the name of a file or directory durable, and the names of the directories that it lies in.

    Goes up as far as this user, who may have been killed while making them, could have made any.
    """
    for directory in path.resolve().parents:
        if not os.access(directory, os.R_OK | os.W_OK):
            return
        storage.sync_directory(directory)
        if directory.is_mount():
            return


def remove_tree(storage: Storage, path: Path) -> None:
    """Removes a file, or a directory with all that it holds; a link is removed, never followed."""
    if path.is_dir() and not path.is_symlink():
        for name in storage.list(path):
            remove_tree(storage, path / name)
        storage.remove_directory(path)
    else:
        storage.remove(path)


def try_to_remove(storage: Storage, path: Path) -> str:
    """Removes a tree that nobody needs; returns why not, or nothing: debris is no reason not to work."""
    try:
        remove_tree(storage, path)
    except OSError as error:
        return f"{error.filename or path}: {error.strerror}"
    return ""
