"""How envelopes get from one process to another: by files in a folder, or, for tests, by memory.

A carrier is trusted with nothing: whoever reads the folder can keep back, repeat, reorder and replace what is
in it, and `Opener` tells.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from esper.leyline.wire.envelope import MAX_BYTES

MOST_AT_ONCE = 256
"""Files that are taken in one look, so that a full folder does not hold a training up."""
_NAME = re.compile(r"\d{8}-[0-9a-f]{16}")


class Carrier(Protocol):
    """Takes bytes to whoever has a name."""

    def put(self, receiver: str, raw: bytes) -> None:
        """Sends; what cannot be delivered is lost, as on any wire."""
        ...

    def take(self, receiver: str) -> Iterator[bytes]:
        """What has arrived for somebody since the last time, in the order of its sending."""
        ...


class MemoryCarrier:
    """Keeps what was sent in this process: for tests, where `boxes` is open to any attack."""

    def __init__(self) -> None:
        self.boxes: defaultdict[str, list[bytes]] = defaultdict(list)

    def put(self, receiver: str, raw: bytes) -> None:
        self.boxes[receiver].append(raw)

    def take(self, receiver: str) -> Iterator[bytes]:
        taken, self.boxes[receiver] = self.boxes[receiver], []
        yield from taken


class FolderCarrier:
    """One folder for each receiver, one file for each message; works wherever the folder can be seen.

    Only somebody whose folder exists can be sent to. Nothing is synced to the disk: a message matters only
    while both processes live.

    Args:
        folder: above the folders of all receivers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.last: Path | None = None
        """What was sent last, until somebody takes it."""

    def open_box(self, name: str) -> None:
        """Makes the folder of a receiver, which must not be there yet.

        Raises:
            OSError: it cannot be made.
        """
        (self._folder / name).mkdir(mode=0o700, parents=False)

    def put(self, receiver: str, raw: bytes) -> None:
        self._count += 1
        box = self._folder / receiver
        # A name that sorts by what this process has sent, and that no other takes.
        target = box / f"{self._count:08d}-{secrets.token_hex(8)}"
        draft = box / f".{target.name}"
        with suppress(OSError):  # nobody is there any more, or the disk is full: it is lost
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(raw)
            draft.rename(target)
            self.last = target

    def withdraw(self) -> None:
        """Takes back what was sent last, if it is still there."""
        if self.last is not None:
            with suppress(OSError):
                self.last.unlink(missing_ok=True)

    def take(self, receiver: str) -> Iterator[bytes]:
        try:
            box = self._folder / receiver
            names = sorted(path.name for path in box.iterdir() if _NAME.fullmatch(path.name))
        except OSError:
            return
        for name in names[:MOST_AT_ONCE]:
            with suppress(OSError):  # another has taken it, or it is a folder: then it lies there for good
                yield _taken(box / name)


def _taken(path: Path) -> bytes:
    """The bytes of a file, which is gone afterwards; of one too large, enough for everybody to see that."""
    try:
        # A link leads nowhere, and a pipe that nobody writes does not keep us waiting.
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                return b""
            with open(number, "rb", closefd=False) as file:
                return file.read(MAX_BYTES + 1)
        finally:
            os.close(number)
    finally:
        path.unlink(missing_ok=True)
