"""What lives beside a network in the process: modules of its class, and tensors."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.graph.wrappers import bare
from esper.heap import Own, derived_from, instances_of


@dataclass(frozen=True)
class _Found:
    modules: tuple[nn.Module, ...]
    averages: frozenset[int]
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
        self._optimizers: tuple[Any, ...] | None = None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules of the network's class, among them itself, but for those within one of Esper's."""
        return self._look().modules

    @property
    def averages(self) -> frozenset[int]:
        """Identities of all modules within an `AveragedModel`."""
        return self._look().averages

    @property
    def optimizers(self) -> tuple[Any, ...]:
        """All optimizers."""
        if self._optimizers is None:  # seldom asked for, and of many classes, each of which takes time
            self._optimizers = instances_of(*derived_from(Optimizer))
        return self._optimizers

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors and parameters, but for those that Esper keeps."""
        return self._look().tensors

    def without_garbage(self) -> Alive:
        """Another look, after what only holds itself was cleared away."""
        self._found = self._optimizers = None
        gc.collect()
        return self

    def _look(self) -> _Found:
        if self._found is None:
            kinds_of_average = derived_from(AveragedModel)
            our_kinds = [kind for kind in derived_from(nn.Module) if kind.__module__.startswith("esper.")]
            kinds: tuple[type, ...] = (self._kind, Tensor, nn.Parameter, Own, *kinds_of_average, *our_kinds)
            found = instances_of(*kinds)
            ours = {id(value) for one in found if type(one) is Own for value in one.values()}
            ours |= {part for one in found if _is_one_of(one, our_kinds) for part in _parts(one)}
            tensors = [one for one in found if type(one) in (Tensor, nn.Parameter) and id(one) not in ours]
            modules = [one for one in found if type(one) is self._kind and id(one) not in ours]
            averages = {part for one in found if _is_one_of(one, kinds_of_average) for part in _parts(one)}
            self._found = _Found(tuple(modules), frozenset(averages), tuple(tensors))
        return self._found


def _is_one_of(one: Any, kinds: list[type]) -> bool:
    return any(type(one) is kind for kind in kinds)


def _parts(one: nn.Module) -> set[int]:
    """Identities of the modules in it; one that fails when it is asked has none."""
    try:
        return {id(part) for part in one.modules() if part is not one}
    except Exception:  # noqa: BLE001  it may be somebody else's, and not initialized yet
        return set()
