"""What an event is: a value that makes its own sentence from its own fields."""

from __future__ import annotations

import logging
import re
from abc import ABC
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import ClassVar, Literal

MarkKind = Literal[
    "mask", "judged", "cut", "rollback", "skipped", "no_go", "germinated", "fossilized", "culled"
]
"""The moments that the picture of a run shows."""


_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")


class Severity(IntEnum):
    """How much it matters to people; the numbers are the levels of `logging`."""

    DETAIL = logging.DEBUG
    NEWS = logging.INFO
    PROBLEM = logging.WARNING


@dataclass(frozen=True)
class Event(ABC):
    """Something that happened.

    Attributes:
        says: the sentence, with names of fields in braces.
        severity: how much it matters.
        kind: the mark that it makes in the report; None makes a note instead.
        is_noted: without a mark, whether the report notes it.
        is_once: whether an equal one is told again.
        is_recorded: whether the audit of a run holds it.
        is_act: whether nothing may be done unless the audit holds it first.
        by: the part that acts or decides; `user` is a person.
        bulk: fields so large that telemetry leaves them to the audit and `run.json`.
    """

    says: ClassVar[str]
    severity: ClassVar[Severity] = Severity.NEWS
    kind: ClassVar[MarkKind | None] = None
    is_noted: ClassVar[bool] = True
    is_once: ClassVar[bool] = True
    is_recorded: ClassVar[bool] = True
    is_act: ClassVar[bool] = False
    by: ClassVar[str] = "session"
    bulk: ClassVar[frozenset[str]] = frozenset()

    @property
    def text(self) -> str:
        """What happened, in words."""
        return self.says.format_map(vars(self)).rstrip()  # some have no evidence

    @property
    def line(self) -> str:
        """The same for a reader who sees nothing beside it."""
        return self.text


@dataclass(frozen=True)
class Moment(Event):
    """Something that happened when an epoch had ended, and may happen again."""

    is_once = False
    epoch: int

    @property
    def line(self) -> str:
        return f"epoch {self.epoch}: {self.text}"


@cache
def kind_of(event: type[Event]) -> str:
    """The name under which files hold a class of events: `RolledBack` is `rolled_back`."""
    return _CAPITAL.sub("_", event.__name__).lower()
