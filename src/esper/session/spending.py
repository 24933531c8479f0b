"""What a run's time goes into: training, cycles, looks at new structures; and what that pays for."""

from __future__ import annotations

import math
from statistics import mean, median

from esper.emrakul import planned_epochs
from esper.kasmina import LiveNetwork
from esper.session.log import RunLog
from esper.session.terms import Terms

_CYCLE_IN_LOOKS = 2.0
"""What a cycle takes before the first one has been measured, as a multiple of one look at the network."""


class Spending:
    """Seconds by the clock of this process, and what `pruning.budget.compute_fraction` makes of them."""

    def __init__(self, network: LiveNetwork, terms: Terms, log: RunLog) -> None:
        self._network = network
        self._terms = terms
        self._log = log
        self._cycles: list[float] = []

    def cycle_ended(self, seconds: float) -> None:
        """A cycle that measured something took this long."""
        self._cycles.append(seconds)

    @property
    def epoch_seconds(self) -> float:
        """What an epoch of training takes, Esper aside; the first one is slower than the others."""
        return median([row.seconds for row in self._log.epochs[1:] or self._log.epochs] or [0.0])

    @property
    def epochs_left(self) -> int:
        """Epochs that are still to come, as far as anybody knows."""
        epoch, terms = self._log.epoch, self._terms
        return planned_epochs(terms.epochs, terms.config.pruning.schedule, epoch) - epoch

    def affordable_cycles(self) -> float:
        """How many more cycles the budget pays for: at least what two in a run need, and never none.

        What they have cost so far says what the next ones will cost.
        """
        share = self._terms.config.pruning.budget.compute_fraction
        if share is None:
            return math.inf
        cost = mean(self._cycles) if self._cycles else _CYCLE_IN_LOOKS * self._network.look_seconds
        whole = share * self.epoch_seconds * (self._log.epoch + self.epochs_left)
        pays = (whole - sum(self._cycles)) / cost if cost > 0 else math.inf
        return max(pays, 2.0 - len(self._cycles), 1.0)

    def least_saving(self) -> float:
        """Least share of the network's cost that a cut must save: as much time as the look at it takes."""
        rules = self._terms.config.pruning
        least = rules.cut.min_saved_fraction
        if rules.budget.compute_fraction is None:
            return least
        left = self.epochs_left * self.epoch_seconds
        return max(least, min(self._network.look_seconds / left, 1.0) if left > 0 else 1.0)
