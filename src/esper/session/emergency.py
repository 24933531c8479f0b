"""A checkpoint beside the run, for the moment in which the network, or the run's checkpoints, are in doubt.

For growing: a seed has reached the network that it must not touch. For pruning: the network must go back, and
no checkpoint is left to go to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from esper.errors import CheckpointError
from esper.nissa import events
from esper.session.log import RunLog
from esper.session.saving import Saving

EMERGENCY = "emergency"
"""The run directory, inside of the run's, that holds it."""


class Emergency:
    """Saves the whole state as it is, wherever in a step; training waits for a copy in memory only.

    It is a run directory of its own. In that of the run it would be the newest checkpoint, from which a
    resume goes on and to which a rollback goes back, and what it holds is what nobody may trust.

    Args:
        run_dir: of the run.
        opened: a place to save in, at a path, with what else a resume needs.
        log: of the run.
    """

    def __init__(self, run_dir: Path, opened: Callable[[Path], Saving], log: RunLog) -> None:
        self._place, self._opened, self._log = run_dir / EMERGENCY, opened, log
        self._saving: Saving | None = None

    def save(self, why: str) -> None:
        """Keeps the state of now. That it cannot be kept is told; the danger is dealt with all the same.

        Args:
            why: in words.
        """
        step, epoch = self._log.progress.step, self._log.epoch
        if self._saving is not None and self._saving.last_step == step:
            return  # several at once are one emergency
        try:
            if self._saving is None:
                self._saving = self._opened(self._place)
            self._saving.save(step, epoch)
        except CheckpointError as error:
            self._log.tell(events.EmergencyLost(epoch, why, str(error)))
        else:
            self._log.tell(events.EmergencySaved(epoch, why, str(self._place), step))

    def end_epoch(self) -> None:
        """Tells if a save that went on beside training has failed."""
        failure = None if self._saving is None else self._saving.failure()
        if failure is not None:
            self._log.tell(events.EmergencyLost(self._log.epoch, "An emergency", str(failure)))

    def close(self) -> None:
        if self._saving is not None:
            self._saving.settle()
            self.end_epoch()
            self._saving.close()
