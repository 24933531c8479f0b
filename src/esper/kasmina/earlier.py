"""What a network and its optimizer are loaded with from before a change of structure: they keep their own.

A training loop keeps the best weights and loads them at its end, or goes back to them where a metric falls.
After a cut those do not fit any more, and would end the script in an error about sizes; the network that was
cut cannot be what they were of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import itemgetter
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.anatomy import Anatomy
from esper.kasmina.changes import Change

Shapes = Mapping[str, tuple[int, ...]]


class Changed(Protocol):
    """A network whose structure changes."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def changes(self) -> Sequence[Change]: ...


def _nobody(*_: object) -> None:
    """There is nobody to tell."""


class EarlierWeights:
    """Lets a network keep its weights where a script loads those from before a change.

    Args:
        network: the one that changes.
        copies: modules that hold a copy of it, and change with it.

    Attributes:
        tell: is told the name of a tensor, its shape in what was given, and its shape now.
    """

    def __init__(self, network: Changed, copies: Sequence[nn.Module]) -> None:
        self.tell: Callable[[str, tuple[int, ...], tuple[int, ...]], None] = _nobody
        self._network = network
        self._watched: list[Optimizer] = []
        self._handles: list[RemovableHandle] = [
            module.register_load_state_dict_pre_hook(_Hook(self._weights))
            for module in (network.model, *copies)
        ]

    def watch(self, optimizer: Optimizer) -> None:
        """Keeps the state of an optimizer likewise."""
        if any(optimizer is known for known in self._watched):
            return
        self._watched.append(optimizer)
        self._handles.append(optimizer.register_load_state_dict_pre_hook(_Hook(self._state)))

    def stop(self) -> None:
        """From now on everything loads what it is given."""
        for handle in self._handles:
            handle.remove()

    def _weights(self, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Before a module loads: puts its own weights in the place of earlier ones."""
        own = module.state_dict(prefix=prefix, keep_vars=True)  # also where they are assigned, not copied
        now, given = _shapes(own), _shapes(state)
        others = {n.removeprefix(prefix): shape for n, shape in given.items() if now.get(n) != shape}
        if odd := self._first_odd(others):
            state.clear()
            state.update(own)
            self.tell(odd, given[f"{prefix}{odd}"], now.get(f"{prefix}{odd}", ()))

    def _state(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any] | None:
        """Before an optimizer loads: gives it its own state in the place of an earlier one."""
        names = {parameter: name for name, parameter in self._network.model.named_parameters()}
        held = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
        numbers = chain.from_iterable(group["params"] for group in state["param_groups"])
        for number, parameter in zip(numbers, held, strict=False):
            name = names.get(parameter, "")
            for value in state["state"].get(number, {}).values():
                shape = tuple(value.shape) if isinstance(value, Tensor) else ()
                if shape and shape != tuple(parameter.shape) and self._first_odd({name: shape}):
                    self.tell(name, shape, tuple(parameter.shape))
                    return optimizer.state_dict()
        return None

    def _first_odd(self, odd: Shapes) -> str:
        """The first of these if all of them have the shapes of one moment before a change; else ''."""
        for earlier in map(_of, reversed([change.before for change in self._network.changes])):
            if odd and all(earlier.get(name) == shape for name, shape in odd.items()):
                return next(iter(odd))
        return ""


class _Hook:
    """One for the network that it was made for: copies and pickles of that have one that does nothing."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> Any:
        return self._hook(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (itemgetter,)  # takes whatever it is called with, and needs nothing of ours to load


def _shapes(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items() if isinstance(value, Tensor)}


def _of(anatomy: Anatomy) -> dict[str, tuple[int, ...]]:
    return {name: info.shape for info in anatomy.tensors for name in (info.name, *info.aliases)}
