"""Where a command writes: tables or one JSON document on standard output, progress on standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, track

from esper import files
from esper.errors import ConfigError
from esper.report import figures
from esper.wording import alike

T = TypeVar("T")

PIPE_WIDTH = 120
"""Columns of a table that goes into a file or a pipe."""


def show(renderable: RenderableType, document: Any, as_json: bool) -> None:
    """Prints the table, or with `--json` the document and nothing else."""
    if as_json:
        sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    else:
        console().print(renderable)


def write_new(path: Path, lines: Iterable[str]) -> None:
    """Writes a new file; where that fails there is none.

    Raises:
        ConfigError: it cannot be written, or is there already.
    """
    try:
        files.write_new(path, lines)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. {files.advice(error)}") from error


def console() -> Console:
    """Standard output; text from files and models is never read as markup."""
    return Console(
        width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, highlight=False, emoji=False
    )


@contextmanager
def epoch_progress(
    total: int | None, hidden: bool, metric: str = "test accuracy"
) -> Iterator[Callable[[str, int, float], None]]:
    """Shows epochs as they end, by a bar on a terminal and by lines in a log; yields who is to be told.

    `total` is the number of epochs; None: nobody knows it yet.
    """
    screen = Console(stderr=True, markup=False, highlight=False)
    bar = Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=screen, transient=True)
    bar.disable = hidden or not screen.is_terminal

    def told(run: str, epoch: int, value: float) -> None:
        text = figures.percent(value) if "accuracy" in metric else alike(value)[0]
        line = f"{run}: epoch {epoch}, {metric} {text}"
        if bar.disable and not hidden:
            screen.print(line)
        bar.update(task, advance=1, description=line)

    with bar, _sentences(screen, logging.WARNING if hidden else logging.INFO):
        task = bar.add_task("loading the data", total=total)
        yield told


@contextmanager
def _sentences(screen: Console, level: int) -> Iterator[None]:
    """Shows what a run tells above its progress bar."""
    logger, handler = logging.getLogger("esper"), _Screen(screen)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


class _Screen(logging.Handler):
    def __init__(self, screen: Console) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self._screen.print(f"  {record.getMessage()}", soft_wrap=True)


@contextmanager
def share_progress(what: str, hidden: bool) -> Iterator[Callable[[float], None]]:
    """Shows which share of some work is done, on a terminal only; yields who is to be told, 0 to 1."""
    screen = Console(stderr=True)
    bar = Progress(console=screen, transient=True, disable=hidden or not screen.is_terminal)
    with bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def waiting(what: str, hidden: bool) -> Iterator[None]:
    """Says what takes its time where nobody knows how long, on a terminal only."""
    screen = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=screen,
        transient=True,
        disable=hidden or not screen.is_terminal,
        redirect_stdout=False,  # what the user's own code prints stays where it prints it
        redirect_stderr=False,
    ) as bar:
        bar.add_task(what, total=None)
        yield


def with_progress(items: Iterable[T], what: str, total: int | None, hidden: bool) -> Iterator[T]:
    """The same items behind a progress bar, which is drawn on a terminal only."""
    screen = Console(stderr=True)
    yield from track(
        items, what, total, console=screen, transient=True, disable=hidden or not screen.is_terminal
    )
