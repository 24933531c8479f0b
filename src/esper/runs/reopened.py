"""A run that somebody has gone back in by hand is not finished any more: whoever looks at it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from esper.errors import CheckpointError
from esper.nissa import TELEMETRY_FILE, JsonLines, acts

_REPORT = ("report.json", "report.svg", "report.html")


class Reopened:
    """Sets the report of a run aside and tells its telemetry, before later checkpoints are deleted.

    Attributes:
        aside: where its report and its pictures are now; empty if it had none.
    """

    def __init__(self, run: Path, clock: Callable[[], float] = time.time) -> None:
        self.aside: list[Path] = []
        self._run = run
        self._clock = clock

    def tell(self, act: acts.Withdrawn) -> None:
        """Somebody goes back.

        Raises:
            CheckpointError: the report cannot be moved, or telemetry not be written; nothing is deleted.
        """
        try:
            self._set_aside(act)
            self._write(act)
        except OSError as error:
            raise CheckpointError(
                f"{self._run} would still be shown as it was before: {error.strerror or error} "
                f"({error.filename or TELEMETRY_FILE}). No checkpoint was deleted. "
                "Make room there, and ask again."
            ) from error

    def _set_aside(self, act: acts.Withdrawn) -> None:
        """What the report tells of is gone; it stays readable under the name of the step that it was of."""
        for name in _REPORT:
            path = self._run / name
            aside = path.with_name(f"{path.stem}-until-step-{act.from_step:09d}{path.suffix}")
            if path.is_file():
                path.replace(aside)
                self.aside.append(aside)

    def _write(self, act: acts.Withdrawn) -> None:
        path = self._run / TELEMETRY_FILE
        if not path.exists():  # its run tells none
            return
        lines = JsonLines(path)
        try:
            lines.write(self._clock(), act)
        finally:
            lines.close()
