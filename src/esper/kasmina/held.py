"""Registers which networks the sessions and growths of this process hold, so that no two change the same one.

Masks zero what another holder takes for trained weights, and a cut by one changes shapes under the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer

from esper.errors import ConfigError


class Holder(Protocol):
    """Something that masks and cuts one network while an optimizer trains it."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def optimizer(self) -> Optimizer: ...


class Hands:
    """The holders of one process, each until it lets go or nobody knows it any more."""

    def __init__(self) -> None:
        self._holders: WeakSet[Holder] = WeakSet()

    def take(self, holder: Holder) -> None:
        self._holders.add(holder)

    def let_go(self, holder: Holder) -> None:
        self._holders.discard(holder)

    def refuse_held(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Raises if a holder has this network, a part of it, or one of its optimizers.

        Raises:
            ConfigError: it says what is held and how to let go of it.
        """
        own = {id(parameter) for parameter in model.parameters()}
        for holder in self._holders:
            shared = any(id(parameter) in own for parameter in holder.model.parameters())
            if shared or any(holder.optimizer is optimizer for optimizer in optimizers):
                what = f"{type(model).__name__}" if shared else f"{type(holder.optimizer).__name__}"
                raise ConfigError(
                    f"A session or a Growth holds this {what} already, and two at once would change it under "
                    "each other. Nothing was changed. Call session.detach() on that session (its run can be "
                    "resumed later) or session.finish() (which cuts what it has masked), or the same of the "
                    "Growth, or build a new network and optimizer."
                )


HANDS = Hands()
"""Those of this process. Held weakly, so that it keeps nothing alive; networks have no place to note it."""
