"""A run as its directory tells it, finished or not: for pages and metrics, without torch and locks."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from esper.errors import ContractError
from esper.files import open_plain
from esper.nissa import TELEMETRY_FILE
from esper.report import RunReport
from esper.runs.so_far import report_so_far
from esper.runs.told import TelemetryReader, Told

RUN_FILE, REPORT_FILE, NOTE_FILE = "run.json", "report.json", "checkpoints/.writer.json"
_STEP_NAME = re.compile(r"step-(\d{9,18})")
_MARKERS = (RUN_FILE, REPORT_FILE, TELEMETRY_FILE, "checkpoints/RUN.json")
_PLANNED = ("epochs_planned", "steps_planned", "every_n_steps")
_MOST_RUNS, _DEPTH = 5000, 3
_LARGEST = 1 << 28


class RunState(StrEnum):
    """What can be said about a run from its files."""

    UNKNOWN = "unknown"
    """Nothing says whether anybody works on it."""
    RUNNING = "running"
    """The process that writes it is there."""
    STOPPED = "stopped"
    """It is not finished, and nobody writes it: it can be resumed."""
    FINISHED = "finished"


@dataclass(frozen=True)
class Story:
    """A run at one moment.

    Attributes:
        report: what is known of it; of a run that goes on, until now. None before anything was written.
        told: what its telemetry says; empty where it wrote none.
        at_seconds: when something was written last, since 1970; None if nobody knows.
        planned: how many epochs or periods are planned; None if nobody said.
        saved_step: the step that a run which has stopped goes on from; None if it runs, or has no checkpoint.
        problems: what of it cannot be read, in words.
        version: grows with every change.
    """

    name: str
    path: Path
    state: RunState
    report: RunReport | None
    told: Told
    at_seconds: float | None
    planned: int | None
    saved_step: int | None
    problems: tuple[str, ...]
    version: int


def runs_in(folder: Path, closed: Callable[[Path, OSError], None] = lambda *_: None) -> dict[str, Path]:
    """The runs in a folder and in folders of it, by their names relative to it, or the one that it is.

    Args:
        folder: to look in.
        closed: is told of every folder in it that cannot be read; the others are shown.

    Raises:
        OSError: the folder itself cannot be read.
    """
    if _is_run(folder):
        return {folder.resolve().name: folder}
    runs: dict[str, Path] = {}
    places = [(folder, 0)]
    while places and len(runs) < _MOST_RUNS:
        place, depth = places.pop()
        try:
            inside = sorted(entry.path for entry in os.scandir(place) if _is_place(entry))
        except OSError as error:
            if place == folder:
                raise
            closed(place, error)
            continue
        for path in map(Path, inside):
            if _is_run(path):
                runs[str(path.relative_to(folder))] = path
            elif depth + 1 < _DEPTH:
                places.append((path, depth + 1))
    return runs


def _is_place(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.is_dir()


def _is_run(path: Path) -> bool:
    return any(os.path.lexists(path / marker) for marker in _MARKERS)


class RunWatch:
    """One run directory, read again only as far as it has changed; one thread at a time."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self._telemetry = TelemetryReader(path / TELEMETRY_FILE)
        self._facts: Mapping[str, Any] = {}
        self._finished: RunReport | None = None
        self._story: Story | None = None
        self._times: dict[str, tuple[int, int, int] | None] = {}

    @property
    def last(self) -> Story | None:
        """What the last look showed."""
        return self._story

    def look(self) -> Story:
        """The run as it is now; the same value as before if nothing has happened."""
        problems: list[str] = []
        has_more = self._read_telemetry(problems)
        changed = self._changed(RUN_FILE), self._changed(REPORT_FILE)
        if self._story is None or changed[0]:
            self._facts = _object(self.path / RUN_FILE, problems)
        if self._story is None or changed[1]:
            self._finished = self._read_report(problems)
        state = self._state()
        saved_step = newest_step(self.path) if state is RunState.STOPPED else None
        now = (state, saved_step)
        is_same = not has_more and not any(changed)
        if self._story is not None and is_same and now == (self._story.state, self._story.saved_step):
            return self._story
        report = self._finished if state is RunState.FINISHED else None
        self._story = Story(
            self.name,
            self.path,
            state,
            report or self._so_far(problems),
            self._telemetry.told,
            self._last_change(),
            planned_of(self._facts),
            saved_step,
            tuple(problems) or (self._story.problems if self._story and not any(changed) else ()),
            1 if self._story is None else self._story.version + 1,
        )
        return self._story

    def _read_telemetry(self, problems: list[str]) -> bool:
        try:
            has_more = self._telemetry.look()
        except OSError as error:
            problems.append(f"{self._telemetry.path} cannot be read: {error.strerror}.")
            return False
        if self._telemetry.told.unreadable:
            lines = self._telemetry.told.unreadable
            problems.append(f"{lines} line(s) of {self._telemetry.path} are no telemetry and were left out.")
        return has_more

    def _read_report(self, problems: list[str]) -> RunReport | None:
        path = self.path / REPORT_FILE
        try:
            return RunReport.read(path)
        except FileNotFoundError:
            return None
        except ContractError as error:
            problems.append(f"{path} is no report that this version of Esper reads: {error}")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}.")
        return None

    def _changed(self, name: str) -> bool:
        """Whether a file is another than at the last look."""
        try:
            status = (self.path / name).stat()
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = None
        is_other = self._times.get(name) != stamp
        self._times[name] = stamp
        return is_other

    def _last_change(self) -> float | None:
        told = self._telemetry.told.at_seconds
        written = [stamp[1] / 1e9 for stamp in self._times.values() if stamp is not None]
        return max([*written, *([] if told is None else [told])], default=None)

    def _state(self) -> RunState:
        told = self._telemetry.told
        if told.is_finished:
            return RunState.FINISHED
        state = state_of_writer(self.path)
        is_told_by_report = self._finished is not None and told.at_seconds is None
        return RunState.FINISHED if is_told_by_report and state is RunState.STOPPED else state

    def _so_far(self, problems: list[str]) -> RunReport | None:
        """A report of what has happened until now; what is only measured at the end is not measured."""
        try:
            return report_so_far(self.name, self._facts, self._telemetry.told)
        except (TypeError, ValueError) as error:  # of a run file that says something else than ours
            problems.append(f"{self.path / RUN_FILE} is not the run file of Esper: {error}.")
            return report_so_far(self.name, {}, self._telemetry.told)


def planned_of(facts: Mapping[str, Any]) -> int | None:
    """How many epochs or periods the run file says are planned; None if it says nothing."""
    epochs, steps, every = (facts.get(name) for name in _PLANNED)
    if isinstance(steps, int) and isinstance(every, int) and every > 0:
        return steps // every
    return epochs if isinstance(epochs, int) else None


def newest_step(run: Path) -> int | None:
    """The step of the newest checkpoint, by its name; None if there is none, or nobody may look."""
    try:
        with os.scandir(run / "checkpoints") as inside:
            names = [_STEP_NAME.fullmatch(entry.name) for entry in inside]
    except OSError:
        return None
    return max((int(name[1]) for name in names if name is not None), default=None)


def state_of_writer(run: Path) -> RunState:
    """Whether the process that holds a run directory is there, by its note beside the lock."""
    try:
        with open_plain(run / NOTE_FILE) as note:
            owner = json.loads(note.read(4096))
        host, pid = str(owner["host"]), int(owner["pid"])
    except FileNotFoundError:
        return RunState.STOPPED
    except (OSError, ValueError, KeyError, TypeError):
        return RunState.UNKNOWN
    if host != socket.gethostname():
        return RunState.UNKNOWN
    return RunState.RUNNING if _is_there(pid) else RunState.STOPPED


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # it is somebody else's
        return True
    return pid > 0


def _object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """What a file of JSON says; nothing where there is none, or where it is no object."""
    try:
        with open_plain(path) as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError("it is too large")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except FileNotFoundError:
        return {}
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}.")
        return {}
    except ValueError as error:
        problems.append(f"{path} is not the run file of Esper: {error}.")
        return {}
    return content
