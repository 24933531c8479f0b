"""Runs that this process holds: one that is not finished when the process ends is told of."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

from esper.nissa import LoggerSink, progress
from esper.runs import newest_step
from esper.session.log import Progress, RunLog

_HELD: dict[Path, tuple[Progress, LoggerSink]] = {}
"""By run directory; nothing in it keeps a session or a network in memory."""


def hold(run: Path, log: RunLog) -> None:
    """A session has begun on this run directory."""
    _HELD[run] = log.progress, LoggerSink(log.says, is_heard=True)


def let_go(run: Path) -> None:
    """It was finished, or detached on purpose."""
    _HELD.pop(run, None)


@atexit.register
def tell_unfinished() -> None:
    """Nobody may take a network for pruned that is only masked, or a run for reported that was not."""
    for run, (reached, sink) in _HELD.items():
        step = newest_step(run) or 0  # saves may have failed; by now none is under way
        saved = max((row.epoch for row in reached.epochs if row.step <= step), default=0)
        sink.emit(progress.NeverFinished(str(run), saved, reached.epoch))


os.register_at_fork(after_in_child=_HELD.clear)  # the run is its parent's
