"""What a life is: one way to the disk, and what must hold of it however it was broken off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint import Storage
from esper.errors import EsperError

Tell = Callable[[str], None]
Act = Callable[[Path, Storage, Tell], None]
Judge = Callable[[Path, str], str]


@dataclass(frozen=True)
class Life:
    """One way to the disk.

    Attributes:
        what: for people.
        act: does it below a directory that is there, and tells what is acknowledged, in words.
        judge: what is wrong below that directory, given all that was told; "" if nothing is.
        is_by_storage: whether its calls go through the storage that it is given, and not through SQLite.
    """

    what: str
    act: Act
    judge: Judge
    is_by_storage: bool = True

    def problem(self, root: Path, told: str) -> str:
        """What is wrong, an error of whoever looks at it included."""
        try:
            return self.judge(root, told)
        except (EsperError, OSError, AssertionError) as error:
            return f"after {told.split()[-1:]}: {type(error).__name__}: {error}"
