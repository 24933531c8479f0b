"""What else in the process follows a network that grows, and would not grow along."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import Alive, CopiesBeside, PlainBeside
from esper.kasmina.seeds.world import World

_WHY = (
    "A {what} of this process ({name}) follows the network, as an average of its weights does, and would not "
    "grow along: the loop would fail where it computes with both. Give it to the session as companions= "
    "when the run begins, or begin with it when growing is over."
)


class Followers:
    """Looks for averages of a network, target networks, and the like: modules, and plain tensors.

    Args:
        model: the network.
        optimizer: trains it; what it remembers does not count.
        world: the processes that train the network.
        known: copies of it that grow along.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, world: World, known: Sequence[nn.Module]
    ) -> None:
        self._model, self._optimizers, self._world = model, (optimizer,), world
        self._copies, self._plain = CopiesBeside(model, known), PlainBeside(model)

    def why_not(self) -> str:
        """Why the network may not grow; '' if nothing is known to follow it.

        What is no `AveragedModel` is known by what the loop did with it since this was asked the last time.
        """
        return self._world.answer(str, self._asked)

    def rest(self) -> None:
        """Lets go of what is watched."""
        self._plain.rest()
        self._plain = PlainBeside(self._model)

    def _asked(self) -> str:
        alive = Alive(self._model)
        plain = self._plain.follower(alive, self._optimizers)  # first: tensors that it watches are not found
        self._copies.look(alive)
        if module := self._copies.follower(alive):
            return _WHY.format(what="module", name=module)
        if plain is not None:
            return _WHY.format(what=plain[0], name=plain[1])
        self._plain.look(alive, self._optimizers)
        return ""
