"""What factored optimizer state holds: the optimizer is asked, by one step on a small parameter of its own.

Adafactor keeps one number per row and one per column instead of one per weight. Which axes a state tensor has
left, and whether it sums or averages over the others, decides what a cut does to it. Names and sizes do not
tell (a square matrix has a row and a column of one length), so a copy of the optimizer with its own settings
takes a step on a parameter whose sizes are all different, and another on the same with half of an axis gone.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.errors import SurgeryError

_SIZES = (6, 10, 14, 22, 26)
"""All different, and all even, so that half of any can go."""
_SHIFT = 1.0
"""How far apart two parameters begin whose states are compared."""
_EXPONENTS = (0.0, 0.5, 1.0)  # a sum or maximum, a root of a mean, a mean


@dataclass(frozen=True)
class Layout:
    """How one state tensor hangs on the axes of its parameter.

    Attributes:
        axes: for every axis of the parameter its axis in the state, or None where it is reduced away.
        is_flat: reduced axes are missing; otherwise they have size 1.
        exponents: for every axis of the parameter: with n times fewer coordinates, all others zero, the state
            is n to this power larger (0 for a sum, 1 for a mean).
    """

    axes: tuple[int | None, ...]
    is_flat: bool
    exponents: tuple[float, ...]

    @classmethod
    def elementwise(cls, rank: int) -> Layout:
        return cls(tuple(range(rank)), False, (0.0,) * rank)

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """The shape of the state for a parameter of that shape."""
        sizes = [size if axis is not None else 1 for size, axis in zip(parameter, self.axes, strict=True)]
        return tuple(
            s for s, axis in zip(sizes, self.axes, strict=True) if axis is not None or not self.is_flat
        )

    def on_state(self, kept: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Coordinates by axis of the parameter, as coordinates by axis of the state."""
        placed = {self.axes[axis]: index for axis, index in kept.items()}
        return {axis: index for axis, index in placed.items() if axis is not None}

    def growth(self, shrinkage: Mapping[int, float]) -> float:
        """What the state grows by when axes become that many times shorter."""
        return float(math.prod(times ** self.exponents[axis] for axis, times in shrinkage.items()))


def ask(optimizer: Optimizer, like: Tensor) -> dict[str, Layout]:
    """The layouts of an optimizer's state for parameters of one rank, by key; keys without one are missing.

    Args:
        optimizer: it is not touched.
        like: the rank and device to ask about.

    Raises:
        SurgeryError: it cannot be asked.
    """
    rank = like.dim()
    sizes = _SIZES[:rank]
    random = torch.Generator().manual_seed(0)
    gradient = torch.randn(sizes, generator=random).to(like.device)
    whole = _state_after_a_step(optimizer, like, gradient)
    found = {
        key: axes for key, value in whole.items() if (axes := _axes(tuple(value.shape), sizes)) is not None
    }
    exponents: dict[str, list[float]] = {key: [0.0] * rank for key in found}
    for axis in range(rank):
        # Half of the axis masked beside that half cut away: what the state makes of it tells sums from
        # means.
        half = torch.arange(sizes[axis] // 2, device=like.device)
        zeroed = gradient.index_fill(axis, half, 0.0)
        masked = _state_after_a_step(optimizer, like, zeroed)
        cut = _state_after_a_step(optimizer, like, gradient.index_select(axis, half + len(half)))
        for key in list(found):
            if found[key][0][axis] is None:
                exponent = _exponent(masked.get(key), cut.get(key))
                if exponent is None:
                    del found[key]
                else:
                    exponents[key][axis] = exponent
    return {key: Layout(axes, is_flat, tuple(exponents[key])) for key, (axes, is_flat) in found.items()}


def ask_for_weights(optimizer: Optimizer, like: Tensor) -> frozenset[str]:
    """The keys of state that holds weights: a master copy, slow weights, an average, a starting point.

    A parameter that begins elsewhere and sees the same gradient moves such state along; moments stay.

    Args:
        optimizer: it is not touched.
        like: the rank and device to ask about.

    Raises:
        SurgeryError: it cannot be asked.
    """
    random = torch.Generator().manual_seed(0)
    gradient = torch.randn(_SIZES[: like.dim()], generator=random).to(like.device)
    here = _state_after_a_step(optimizer, like, gradient)
    there = _state_after_a_step(optimizer, like, gradient, start=1.0 + _SHIFT)
    return frozenset(
        key
        for key, value in here.items()
        if value.shape == gradient.shape
        and value.is_floating_point()
        and float((there[key] - value).float().mean()) > _SHIFT / 2  # weight decay shifts moments a little
    )


def _state_after_a_step(
    optimizer: Optimizer, like: Tensor, gradient: Tensor, *, start: float = 1.0
) -> dict[str, Tensor]:
    """The state tensors of a copy of the optimizer that has made one step on a parameter of its own."""
    parameter = torch.nn.Parameter(torch.full_like(gradient, start))
    parameter.grad = gradient.clone()
    twin = _twin(optimizer, like, parameter)
    try:
        type(optimizer).step(twin)  # an instance's own `step` may be a scheduler's, bound to the original
    except Exception as error:
        raise SurgeryError(
            f"{type(optimizer).__name__} holds state that is not element-wise, and asking a copy of it what "
            f"that state means failed: {error}. Nothing was changed. Cut without this optimizer and start a "
            "new one."
        ) from error
    return {key: value for key, value in twin.state[parameter].items() if isinstance(value, Tensor)}


def _twin(optimizer: Optimizer, like: Tensor, parameter: torch.nn.Parameter) -> Optimizer:
    attributes = vars(optimizer)
    is_wrapper = any(isinstance(value, Optimizer) for value in attributes.values())
    if is_wrapper or not {"state", "param_groups"} <= attributes.keys():
        raise SurgeryError(
            f"{type(optimizer).__name__} wraps another optimizer and holds state that is not element-wise. "
            "Give the optimizer inside of it. Nothing was changed."
        )
    group = next(
        (g for g in optimizer.param_groups if any(p is like for p in g["params"])), optimizer.param_groups[0]
    )
    settings = {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
    twin: Optimizer = object.__new__(type(optimizer))  # copying one leaves attributes of its own behind
    for key, value in attributes.items():
        if key not in ("state", "param_groups"):
            vars(twin)[key] = OrderedDict() if key.endswith("_hooks") else _own(value)
    vars(twin).update(param_groups=[{**settings, "params": [parameter]}], state=defaultdict(dict))
    return twin


def _own(value: Any) -> Any:
    """A container that the twin may change; what is in it is shared."""
    return copy.copy(value) if isinstance(value, (dict, list, set)) else value


def _axes(state: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[tuple[int | None, ...], bool] | None:
    """Which axes of the parameter the state has, and whether the others are missing rather than 1."""
    rank = len(sizes)
    if len(state) == rank and all(s in (1, size) for s, size in zip(state, sizes, strict=True)):
        return tuple(axis if s != 1 else None for axis, s in enumerate(state)), False
    # All sizes differ, so at most one choice of axes fits.
    for left in combinations(range(rank), len(state)):
        if tuple(sizes[axis] for axis in left) == state:
            return tuple(left.index(axis) if axis in left else None for axis in range(rank)), True
    return None


def _exponent(masked: Tensor | None, cut: Tensor | None) -> float | None:
    """How the state of half an axis relates to the state of the axis with that half zero."""
    if masked is None or cut is None or masked.shape != cut.shape:
        return None
    # The same for a sum, twice as much for a mean over half as many.
    for exponent in _EXPONENTS:
        if torch.allclose(masked * 2**exponent, cut, rtol=1e-4, atol=0.0):
            return exponent
    return None
