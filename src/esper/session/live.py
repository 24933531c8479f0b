"""The live view of a run on the terminal that it was started from."""

from __future__ import annotations

import json
import os
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from esper.nissa import Event, line_of
from esper.runs import RUN_FILE, RunState, Story, Told, live_panel, planned_of, report_so_far

_BETWEEN_SECONDS = 0.2
"""A terminal is drawn at most so often; the end is always drawn."""


class LiveView:
    """A writer that draws what it is told below whatever is printed and logged meanwhile.

    Args:
        run: the run directory; its name is the title.
        says: puts a sentence in the words of the run.
    """

    def __init__(self, run: Path, says: Callable[[str], str]) -> None:
        self._run = run
        self._says = says
        self._told = Told()
        self._facts: Mapping[str, Any] | None = None
        self._live: Live | None = None
        self._drawn = 0.0

    def write(self, at_seconds: float, event: Event) -> None:
        """Takes one event, and draws unless that was done just now."""
        # As a file would hold it, so that this and `esper follow` show the same.
        self._told.take(json.loads(json.dumps(line_of(at_seconds, event, self._says))))
        if self._live is None:
            self._live = _opened()
        if time.monotonic() - self._drawn >= _BETWEEN_SECONDS or self._told.is_finished:
            self._live.update(live_panel(self._story()), refresh=True)
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Leaves the last picture where it is."""
        if self._live is not None:
            self._live.update(live_panel(self._story()), refresh=True)
            self._live.stop()
            self._live = None

    def _story(self) -> Story:
        if self._facts is None:  # written before the first epoch, and after the first event
            with suppress(OSError, ValueError):  # the view does without, and looks again
                self._facts = json.loads((self._run / RUN_FILE).read_bytes())
        facts, told = self._facts or {}, self._told
        state = RunState.FINISHED if told.is_finished else RunState.RUNNING
        report = report_so_far(self._run.name, facts, told)
        return Story(
            self._run.name, self._run, state, report, told, told.at_seconds, planned_of(facts), None, (), 0
        )


def _opened() -> Live:
    """A region at the bottom of the terminal; what a process prints into it goes above."""
    streams = sys.stdout, sys.stderr
    live = Live(console=Console(file=sys.stderr, highlight=False), auto_refresh=False)
    view = weakref.ref(live)

    def let_go() -> None:
        """In a fork, such as a worker of a DataLoader, words go straight out: nobody opens locks there."""
        if view() is not None:
            sys.stdout, sys.stderr = streams

    os.register_at_fork(after_in_child=let_go)  # first: another thread may fork while the view is opened
    live.start()
    live.console.show_cursor()  # a process that is killed leaves a terminal that can be used
    return live
