"""Counts how often a network was trained, by one optimizer or by several."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer


class Rounds:
    """Says when a step begins that counts: of one optimizer, and of the others in periods in which it rests.

    Where several step for every batch, in whatever order and number, the steps of the first one are counted.
    Where it rests, as when the head is trained before the rest, a round of the others is a step: one of each.

    Args:
        model: the network.
        optimizers: those that were given, the one that counts first; of the others whoever holds none of the
            network's parameters is not heard.
        begins: is called after the first step of every round.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], begins: Callable[[], None]) -> None:
        own = {id(parameter) for parameter in model.parameters()}
        self._begins = begins
        self._first, *others = optimizers
        heard = [one for one in others if any(id(p) in own for g in one.param_groups for p in g["params"])]
        self._hooks = [one.register_step_post_hook(self._after_step) for one in (self._first, *heard)]
        self.end()

    def end(self) -> None:
        """A period has ended: nobody has stepped in the next one yet."""
        self._has_first = False
        self._had_turn: set[int] = set()

    def detach(self) -> None:
        """Listens to none of them any more."""
        for hook in self._hooks:
            hook.remove()

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        if optimizer is self._first:
            # Others that came before it in this period have begun its round.
            is_begun, self._has_first = bool(self._had_turn) and not self._has_first, True
            if not is_begun:
                self._begins()
        elif not self._has_first:
            is_new = not self._had_turn or id(optimizer) in self._had_turn
            self._had_turn = {id(optimizer)} if is_new else {*self._had_turn, id(optimizer)}
            if is_new:
                self._begins()
