"""Counts the programs that `torch.compile` makes in epochs in which a seed is on its way."""

from __future__ import annotations

from esper.anatomy.graph import programs_made
from esper.nissa import Event, kernel_events


class ProgramCount:
    """Programs of one network, whose seeds change what a compiler sees of it.

    Attributes:
        made: in epochs with a seed, since this process counts.
    """

    def __init__(self) -> None:
        self._seen = programs_made()
        self._had_seeds = False
        self.made = 0

    def skip(self) -> None:
        """What was made until now is not counted: there is no seed yet."""
        self._seen = programs_made()

    def end_epoch(self, epoch: int, *, has_seeds: bool) -> Event | None:
        """What is to be told of the epoch; None where there was no seed in it.

        Args:
            epoch: epochs that have ended.
            has_seeds: whether there is a seed on its way now.
        """
        now, seen = programs_made(), self._seen
        fresh = now - seen if now >= seen else now  # somebody has set the counter back
        self._seen, had_seeds, self._had_seeds = now, self._had_seeds, has_seeds
        if not (has_seeds or had_seeds):
            return None
        self.made += fresh
        return kernel_events.ProgramsMade(epoch, fresh) if fresh else kernel_events.ProgramsCounted(epoch, 0)
