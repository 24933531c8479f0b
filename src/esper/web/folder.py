"""The runs of one folder, looked at again only as far as they have changed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from esper.errors import ConfigError
from esper.runs import RunWatch, Story, runs_in

_SEARCH_SECONDS = 2.0
"""How old the list of runs may be."""


class Folder:
    """Where `esper serve` looks. Any thread may ask.

    Args:
        path: a folder of runs, or one run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._watches: dict[str, RunWatch] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._searching = threading.Lock()
        self._searched = float("-inf")
        self.problem = ""
        """Why the folder cannot be read by now; '' if it can."""

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
            return self._watches[name].look()

    def stories(self, budget_seconds: float) -> tuple[list[Story], list[str]]:
        """Every run as it is now, and the names of those that there was no time for."""
        begun, stories, names = time.monotonic(), [], self.names()
        unseen = []
        for name in names:
            if time.monotonic() - begun <= budget_seconds:
                stories.append(self.story(name))
            elif (last := self._watches[name].last) is not None:
                stories.append(last)
            else:
                unseen.append(name)
        return stories, unseen

    def _search(self) -> None:
        try:
            found = runs_in(self.path)
        except OSError as error:
            self.problem = f"{self.path} cannot be read: {error.strerror}."
            found = {}
        else:
            self.problem = ""
        self._searched = time.monotonic()
        self._watches = {
            name: self._watches.get(name) or RunWatch(name, path) for name, path in found.items()
        }
        self._locks = {name: self._locks.get(name) or threading.Lock() for name in self._watches}
