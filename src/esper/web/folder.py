"""The runs of one folder, looked at again only as far as they have changed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

from esper.errors import ConfigError
from esper.runs import RunState, RunWatch, Story, runs_in

_SEARCH_SECONDS = 2.0
"""How old the list of runs may be."""
_STILL_SECONDS = 3.0
"""How old a list may show a run that nobody writes; the page of a run always looks."""


class Folder:
    """Where `esper serve` looks. Any thread may ask.

    Args:
        path: a folder of runs, or one run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watches: dict[str, RunWatch] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._looked: dict[str, float] = {}
        self._searching = threading.Lock()
        self._searched = float("-inf")
        self.problem = ""
        """Why the folder cannot be read by now; '' if it can."""
        self.closed: tuple[str, ...] = ()
        """Folders in it that cannot be read by now, with why."""

    def names(self) -> tuple[str, ...]:
        """Every run, by name."""
        with self._searching:
            if time.monotonic() - self._searched > _SEARCH_SECONDS:
                self._search()
            return tuple(sorted(self._watches))

    def story(self, name: str) -> Story:
        """The run as it is now.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.names():
            raise ConfigError(f"There is no run called {name!r} in {self.path}.")
        with self._locks[name]:
            self._looked[name] = time.monotonic()
            return self._watches[name].look()

    def stories(self, budget_seconds: float) -> tuple[list[Story], list[str]]:
        """Every run as it is now, and the names of those that there was no time for."""
        begun, stories, names = time.monotonic(), [], self.names()
        unseen = []
        for name in names:
            if time.monotonic() - begun <= budget_seconds and self._is_due(name):
                stories.append(self.story(name))
            elif (last := self._watches[name].last) is not None:
                stories.append(last)
            else:
                unseen.append(name)
        return stories, unseen

    def _is_due(self, name: str) -> bool:
        """Whether a list should look at a run again: at what nobody writes, only now and then."""
        last = self._watches[name].last
        is_still = last is not None and last.state in (RunState.FINISHED, RunState.STOPPED)
        return not is_still or time.monotonic() - self._looked.get(name, float("-inf")) > _STILL_SECONDS

    def read_ahead(self) -> None:
        """Reads every run once, so that whoever asks first does not wait for all of it."""
        for name in self.names():
            with suppress(ConfigError):  # gone meanwhile
                self.story(name)

    def _search(self) -> None:
        try:
            closed: list[str] = []
            found = runs_in(
                self.path,
                lambda place, error: closed.append(f"{place.relative_to(self.path)} ({error.strerror})"),
            )
        except OSError as error:
            self.problem = f"{self.path} cannot be read: {error.strerror}."
            found = {}
        else:
            self.problem, self.closed = "", tuple(closed)
        self._searched = time.monotonic()
        self._watches = {
            name: self._watches.get(name) or RunWatch(name, path) for name, path in found.items()
        }
        self._locks = {name: self._locks.get(name) or threading.Lock() for name in self._watches}
