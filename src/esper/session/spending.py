"""What a run's time goes into: training, cycles, looks at new structures; and what that pays for."""

from __future__ import annotations

import math
from statistics import mean, median

from esper.anatomy.graph import Alive, CopiesBeside, PlainBeside, held_by_a_hook
from esper.arrays import BoolArray
from esper.emrakul import planned_epochs
from esper.emrakul.plan import worthwhile_cut
from esper.kasmina import LiveNetwork
from esper.nissa import Event, given_events
from esper.session.log import RunLog
from esper.session.terms import Terms

_CYCLE_IN_LOOKS = 2.0
"""What a cycle takes before the first one has been measured, as a multiple of one look at the network."""


_WAITS = (10.0, 60.0)
"""Seconds that an epoch's end may wait for an analysis at least, however short epochs are, and at most."""


_LEAST_MEASURING = 2.0
"""Seconds that measuring layers may take in any case: most networks that train in minutes need no more."""


class Spending:
    """Seconds by the clock of this process, and what `pruning.budget.compute_fraction` makes of them."""

    def __init__(self, network: LiveNetwork, copies: CopiesBeside, terms: Terms, log: RunLog) -> None:
        self._network = network
        self._copies = copies
        given = [copy.given for copy in network.masks.plain_copies]
        self._plain = PlainBeside(network.model, given)
        self._terms = terms
        self._log = log
        self._cycles: list[float] = []

    def cycle_ended(self, seconds: float) -> None:
        """A cycle that measured something took this long."""
        self._cycles.append(seconds)

    def mask_begins(self) -> None:
        """A mask is applied: whatever copy of the network is there now may have followed it until the cut."""
        alive = Alive(self._network.model)
        self._plain.look(alive, self._network.optimizers)
        self._copies.look(alive)

    def rest(self) -> None:
        """Lets go of what is watched since a mask."""
        self._plain.rest()

    @property
    def epoch_seconds(self) -> float:
        """What an epoch of training takes, Esper aside; the first one is slower than the others."""
        return median([row.seconds for row in self._log.epochs[1:] or self._log.epochs] or [0.0])

    @property
    def longest_wait_seconds(self) -> float:
        """How long an epoch's end may wait for a late analysis.

        What is collected at the next end instead comes an epoch later, so that is what waiting is worth.
        """
        asked, (least, most) = self._terms.config.analysis.max_wait_seconds, _WAITS
        return min(max(self.epoch_seconds, least), most) if asked is None else asked

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
        pays = self._left(share) / cost if cost > 0 else math.inf
        return max(pays, 2.0 - len(self._cycles), 1.0)

    def enough_seconds(self, steps_left: int) -> float:
        """What measuring the layers may take in one cycle, so that it ends with the next epoch and pays.

        Half of what a cycle has, because the screen before and the validation after them need the rest; a
        cycle has an even share of the budget if all the steps are taken that fit, but an epoch at most.

        Args:
            steps_left: how many steps still fit into the run.
        """
        rules = self._terms.config.pruning
        if rules.budget.compute_fraction is None or rules.target is None:
            return math.inf  # without a target single units have to be surely among the least
        steps = min(max(steps_left, 1), rules.schedule.max_steps)
        has = min(self._left(rules.budget.compute_fraction) / steps, self.epoch_seconds)
        return max(has / 2, _LEAST_MEASURING)

    def _left(self, share: float) -> float:
        """Seconds of the budget that no cycle has used: below 0 where it has been passed."""
        return share * self.epoch_seconds * (self._log.epoch + self.epochs_left) - sum(self._cycles)

    def worthwhile_cut(self) -> BoolArray | None:
        """What to leave if masks are cut now, shape [units].

        None where that takes longer than it saves, or parts the network from what the loop has beside it.
        """
        rules = self._terms.config.pruning
        least = rules.cut.min_saved_fraction
        if rules.budget.compute_fraction is not None:
            # It takes about as long as the last look at the network, and saves its share of what is to come.
            to_come = self.epochs_left * self.epoch_seconds
            least = max(least, self._network.look_seconds / to_come if to_come > 0 else 1.0)
        left = worthwhile_cut(self._terms.situation(self._network), rules, least)
        if left is None or (why := self._why_to_wait()) is None:
            return left
        self._log.tell(why)
        return None

    def _why_to_wait(self) -> Event | None:
        """What the loop has that would not fit after a cut, so that it would fail."""
        self.rest()  # tensors that are watched are of a class that no look finds
        alive = Alive(self._network.model)
        if follower := self._copies.follower(alive):
            return given_events.CutWaits(follower)
        if plain := self._plain.follower(alive, self._network.optimizers):
            what, name = plain
            is_row = what == "tensor"
            return (
                given_events.CutWaitsForRow(name) if is_row else given_events.CutWaitsForTensors(what, name)
            )
        if held := held_by_a_hook(self._network.model):
            return given_events.CutWaitsForHook(*held)
        return None
