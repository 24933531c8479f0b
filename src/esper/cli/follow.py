"""`esper follow`: a run seen from another terminal, while it trains and when it is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.live import Live

from esper.cli import output
from esper.errors import CheckpointMissing, ConfigError
from esper.nissa import TELEMETRY_FILE
from esper.runs import RunState, RunWatch, Story, live_line, live_panel, require_run

LOOK_SECONDS = 0.5
_SENTENCES = 5
_GOES_ON = (RunState.RUNNING, RunState.UNKNOWN)


def follow(run: Path, as_json: bool) -> None:
    """Shows the run until it ends or nobody writes it any more.

    Raises:
        CheckpointMissing: there is no such directory.
        ConfigError: it is that of no run, or cannot be read.
    """
    if not run.is_dir():
        raise CheckpointMissing(
            f"There is no run directory at {run}. Name the run_dir given to esper.attach."
        )
    require_run(run)
    stories = _stories(run)
    if as_json:
        _pass_on(run / TELEMETRY_FILE, stories)
    elif sys.stdout.isatty():
        _draw(stories)
    else:
        _print(stories)


def _stories(run: Path) -> Iterator[Story]:
    """The run as it is, twice a second, until it is over."""
    watch = RunWatch(run.resolve().name, run)
    while True:
        story = watch.look()
        if story.report is None and story.problems:
            raise ConfigError(story.problems[0])
        yield story
        if story.state not in _GOES_ON or _is_over(story):
            return
        time.sleep(LOOK_SECONDS)


def _is_over(story: Story) -> bool:
    """Of a run that nobody here can say anything about, nothing more comes where it wrote no telemetry."""
    return story.state is RunState.UNKNOWN and story.told.at_seconds is None and story.report is not None


def _draw(stories: Iterator[Story]) -> None:
    with Live(console=output.console(), auto_refresh=False) as live:
        for story in stories:
            live.update(live_panel(story, _SENTENCES), refresh=True)


def _print(stories: Iterator[Story]) -> None:
    """A line where something has changed, for pipes and logs."""
    said = ""
    for story in stories:
        line = live_line(story)
        if line != said:
            output.console().print(line, soft_wrap=True)
            sys.stdout.flush()
        said = line


def _pass_on(path: Path, stories: Iterator[Story]) -> None:
    """The lines of telemetry as they are, whole ones only."""
    offset = 0
    for _ in stories:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except FileNotFoundError:
            continue
        whole = data.rfind(b"\n") + 1
        offset += whole
        sys.stdout.write(data[:whole].decode(errors="replace"))
        sys.stdout.flush()
