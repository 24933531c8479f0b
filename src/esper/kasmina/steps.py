"""Steps of optimizers that nobody gave: torch tells of every one in the process, and it is passed on."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakSet

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


class Listener(Protocol):
    """Whoever wants to know which optimizers step."""

    def adopt(self, optimizer: Optimizer) -> None:
        """Is told of an optimizer that has just made a step."""
        ...


class Steps:
    """Passes on that an optimizer has made a step; listeners are held weakly.

    One hook in torch serves all of them, from the first one on. It stays: a hook that is taken out while
    torch goes through its list, as when a listener is collected, would end the step with an error.
    """

    def __init__(self) -> None:
        self._listeners: WeakSet[Listener] = WeakSet()
        self._is_hooked = False

    def tell(self, listener: Listener) -> None:
        if not self._is_hooked:
            register_optimizer_step_post_hook(self._after_step)
            self._is_hooked = True
        self._listeners.add(listener)

    def tell_no_more(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        for listener in tuple(self._listeners):
            listener.adopt(optimizer)


STEPS = Steps()
"""Those of this process."""
