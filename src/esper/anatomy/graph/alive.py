"""What lives beside a network in the process: modules of its class, and tensors."""

from __future__ import annotations

import gc
from dataclasses import dataclass

from torch import Tensor, nn

from esper.anatomy.graph.wrappers import bare
from esper.heap import Own, instances_of


@dataclass(frozen=True)
class _Found:
    modules: tuple[nn.Module, ...]
    tensors: tuple[Tensor, ...]


class Alive:
    """One look through the process, for everything that is asked about at one moment.

    It takes the longer the more is alive, and holds what it has found: not to be kept.

    Args:
        model: the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kind = type(bare(model))
        self._found: _Found | None = None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules of the network's class, among them itself."""
        return self._look().modules

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors and parameters, but for those that Esper keeps."""
        return self._look().tensors

    def without_garbage(self) -> Alive:
        """Another look, after what only holds itself was cleared away."""
        self._found = None
        gc.collect()
        return self

    def _look(self) -> _Found:
        if self._found is None:
            found = instances_of(self._kind, Tensor, nn.Parameter, Own)
            ours = {id(value) for one in found if type(one) is Own for value in one.values()}
            tensors = [one for one in found if type(one) in (Tensor, nn.Parameter) and id(one) not in ours]
            modules = [one for one in found if type(one) is self._kind]
            self._found = _Found(tuple(modules), tuple(tensors))
        return self._found
