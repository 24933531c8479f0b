"""How a confined process ended, and the caps that it worked under."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a confined process was stopped at."""

    WRITE = "write"
    READ = "read"
    CONNECT = "connect"
    START = "start"
    OTHER = "other"
    MEMORY = "memory"
    TIME = "time"
    SIZE = "size"
    DIED = "died"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Caps:
    """The most that a confined process may take.

    Args:
        memory_bytes: beside what the interpreter and its libraries take.
        seconds: of processor time, and of time.
        answer_bytes: what it may answer.
    """

    memory_bytes: int
    seconds: int
    answer_bytes: int


@dataclass(frozen=True)
class Confined:
    """An answer that is complete.

    Args:
        is_filtered: it could write, connect and start nothing.
        is_narrowed: it could read nothing but the file, the interpreter and libraries.
    """

    is_filtered: bool
    is_narrowed: bool


@dataclass(frozen=True)
class Stopped:
    """What the process was stopped at, and its last words: text of a stranger, printable characters only."""

    kind: Kind
    text: str
