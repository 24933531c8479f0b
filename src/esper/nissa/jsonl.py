"""Telemetry as lines of JSON, for pandas and whatever else reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.leyline import encode
from esper.nissa.event import Event, kind_of

TELEMETRY_FILE = "telemetry.jsonl"


def line_of(at_seconds: float, event: Event, says: Callable[[str], str] = str) -> dict[str, Any]:
    """One event as what JSON holds: when, what, by whom, in words, and its own fields below `facts`."""
    facts = {name: value for name, value in encode(event).items() if name not in event.bulk}
    return {
        "at_seconds": at_seconds,
        "kind": kind_of(type(event)),
        "severity": event.severity.name.lower(),
        "by": event.by,
        "epoch": facts.pop("epoch", None),
        "text": says(event.text),
        "facts": facts,
    }


class JsonLines:
    """Appends a line for every event to a file, which is made with the first one.

    A line is written by one call, so a reader beside it sees whole lines; where a full disk has cut one
    short, the next begins on a line of its own.

    Args:
        path: of the file.
        says: puts a sentence in the words of a run.
    """

    def __init__(self, path: Path, says: Callable[[str], str] = str) -> None:
        self.path = path
        self._says = says
        self._descriptor = -1
        self._is_torn = False

    def write(self, at_seconds: float, event: Event) -> None:
        """Appends one line.

        Raises:
            OSError: it cannot be written, or not all of it.
        """
        line = json.dumps(line_of(at_seconds, event, self._says), allow_nan=False).encode() + b"\n"
        if self._descriptor < 0:
            self._open()
        whole = b"\n" + line if self._is_torn else line
        written = os.write(self._descriptor, whole)
        self._is_torn = written < len(whole)
        if self._is_torn:
            raise OSError(f"{self.path} took {written} of {len(whole)} bytes; the disk may be full")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        size = os.fstat(self._descriptor).st_size
        self._is_torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
