"""Counts how often a network was trained, by one optimizer or by several that take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer


class Rounds:
    """Says when a round of steps begins: one of each optimizer that trains the network, in any order.

    Two that step one after the other for every batch train it once per batch. One that steps alone for a
    while, as when the head is trained before the rest, trains it once per step. So a round ends where an
    optimizer steps again that has had its turn in it, and at the end of an epoch.

    Args:
        model: the network.
        optimizers: those that were given; whoever holds none of its parameters does not count.
        begins: is called after the first step of every round.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], begins: Callable[[], None]) -> None:
        self._begins = begins
        self._had_turn: set[int] = set()
        own = {id(parameter) for parameter in model.parameters()}
        self._hooks = [
            optimizer.register_step_post_hook(self._after_step)
            for number, optimizer in enumerate(optimizers)
            if not number or any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        ]

    def end(self) -> None:
        """The next step begins a round, whoever makes it."""
        self._had_turn.clear()

    def detach(self) -> None:
        """Listens to none of them any more."""
        for hook in self._hooks:
            hook.remove()

    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        is_new = not self._had_turn or id(optimizer) in self._had_turn
        if is_new:
            self._had_turn.clear()
        self._had_turn.add(id(optimizer))
        if is_new:
            self._begins()
