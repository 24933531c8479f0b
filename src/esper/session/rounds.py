"""Counts how often a network was trained, by one optimizer or by several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer

from esper.kasmina import STEPS
from esper.nissa import Event, given_events


def _nobody(_: Event) -> None:
    """There is nobody to tell."""


class Rounds:
    """Says when a step begins that counts: of one optimizer, and of the others in periods in which it rests.

    Where several step for every batch, in whatever order and number, the steps of the first one are counted.
    Where it rests, as when the head is trained before the rest, a round of the others is a step: one of each.
    Once it has stepped, others that nobody gave are heard as well: many a loop makes one for its next phase.

    Args:
        model: the network.
        optimizers: those that were given, the one that counts first; of the others whoever holds none of the
            network's parameters is not heard.
        begins: is called after the first step of every round.
        tell: is told where one that nobody gave has taken the place of the first.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        begins: Callable[[], None],
        tell: Callable[[Event], None] = _nobody,
    ) -> None:
        self._own = {id(parameter) for parameter in model.parameters()}
        self._begins, self._tell = begins, tell
        self._first, *others = optimizers
        self._heard = [self._first, *filter(self._trains, others)]
        self._hooks = [one.register_step_post_hook(self._after_step) for one in self._heard]
        self._num_given, self._is_known = len(self._heard), False
        self._start()
        STEPS.tell(self)

    def adopt(self, optimizer: Optimizer) -> None:
        """Hears one that nobody gave, from its first step on."""
        is_heard = any(optimizer is one for one in self._heard)
        if is_heard or not self._is_known or not self._trains(optimizer):
            return
        self._heard.append(optimizer)
        self._hooks.append(optimizer.register_step_post_hook(self._after_step))
        self._after_step(optimizer)

    def end(self) -> None:
        """A period has ended: nobody has stepped in the next one yet."""
        strangers = self._heard[self._num_given :]
        if not self._has_first and (other := next((o for o in strangers if id(o) in self._had_turn), None)):
            self._tell(given_events.OptimizerReplaced(type(self._first).__name__, type(other).__name__))
        self._start()

    def detach(self) -> None:
        """Listens to none of them any more."""
        STEPS.tell_no_more(self)
        for hook in self._hooks:
            hook.remove()

    def _start(self) -> None:
        self._has_first = False
        self._had_turn: set[int] = set()

    def _trains(self, optimizer: Optimizer) -> bool:
        return any(id(p) in self._own for group in optimizer.param_groups for p in group["params"])

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        if optimizer is self._first:
            self._is_known = True
            # Others that came before it in this period have begun its round.
            is_begun, self._has_first = bool(self._had_turn) and not self._has_first, True
            if not is_begun:
                self._begins()
        elif not self._has_first:
            is_new = not self._had_turn or id(optimizer) in self._had_turn
            self._had_turn = {id(optimizer)} if is_new else {*self._had_turn, id(optimizer)}
            if is_new:
                self._begins()
