"""Large weights in a proof: multiplied piece by piece, and their gradients told by what these are made of.

In float64 a weight of a hundred million numbers takes a gigabyte, and its gradient another one. But that is
the product of what the layer reads and of the gradient of what it gives, which are small. Both are compared
in its place: where they are equal, so is their product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from esper.anatomy.structure import Anatomy

_LARGE = 1 << 22
"""Numbers in a weight that is large."""
_PIECE = 1 << 21
_SPATIAL = {F.linear: 0, F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
"""Layers whose weight is [out, in, ...], and how many axes are behind the channels of what they read."""
_QUESTIONS = frozenset(
    {
        *(
            getattr(Tensor, name).__get__
            for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")
        ),
        *(getattr(Tensor, name) for name in ("dim", "size", "numel", "is_floating_point", "is_complex")),
    }
)
"""Functions that only ask what kind of a tensor it is."""

Factor = tuple[str, int, int]
"""Of which weight, along which of its axes, and the axis of the factor that has the same coordinates."""


def large_in(anatomy: Anatomy) -> frozenset[str]:
    """The weights that are large before a cut; the cut network's are told by the same names."""
    return frozenset(info.name for info in anatomy.tensors if prod(info.shape) >= _LARGE)


class InPieces(TorchFunctionMode):
    """Computes layers with large weights in float64 without ever holding these in float64.

    In the network such a weight is a stand-in, full of NaN, which shows where it was used unseen. Code that
    does anything else with it than these layers gets it whole.

    Args:
        weights: the large ones in their own precision, by name.
        wanted: the tensors whose gradients are wanted, by name; weights that are needed whole join them. None
            if no gradients are.
        scale: what the weights are multiplied by.
    """

    def __init__(self, weights: Mapping[str, Tensor], wanted: dict[str, Tensor] | None, scale: float) -> None:
        super().__init__()
        self.stand_ins = {name: _stand_in(weight) for name, weight in weights.items()}
        self.factors: dict[str, Tensor] = {}
        """What the gradients are made of."""
        self.places: dict[str, Factor] = {}
        """Where each of them belongs."""
        self._weights, self._wanted, self._scale = weights, wanted, scale
        self._names = {id(stand_in): name for name, stand_in in self.stand_ins.items()}
        self._whole: dict[str, Tensor] = {}
        self._room: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _QUESTIONS:
            return func(*args, **kwargs)
        name = self._name(args[1]) if func in _SPATIAL and len(args) > 1 else None
        if name is not None and name not in self._whole and _is_plain(args, kwargs):
            return self._layer(func, name, args, kwargs)
        return func(*pytree.tree_map(self._given, args), **pytree.tree_map(self._given, kwargs))

    def _name(self, value: Any) -> str | None:
        return self._names.get(id(value)) if isinstance(value, Tensor) else None

    def _given(self, value: Any) -> Any:
        """A weight itself in the place of its stand-in."""
        name = self._name(value)
        if name is None:
            return value
        if name not in self._whole:
            self._whole[name] = self._weights[name].to(torch.float64).mul_(self._scale)
            if self._wanted is not None:
                self._wanted[name] = self._whole[name].requires_grad_()
        return self._whole[name]

    def _layer(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        x, _, *rest = args
        bias = rest[0] if rest else kwargs.get("bias")
        others = {key: value for key, value in kwargs.items() if key != "bias"}
        axis = -1 - _SPATIAL[func]

        def call(x: Tensor, piece: Tensor) -> Tensor:
            given: Tensor = func(x, self._widened(piece), None, *rest[1:], **others)
            return given

        def note(read: Tensor, given: Tensor) -> None:
            number = len(self.factors)
            for factor, weight_axis in ((given, 0), (read, 1)):
                key = f"{name} ({number + weight_axis})"
                self.factors[key], self.places[key] = factor.detach(), (name, weight_axis, axis)

        # A gradient is asked for also where nothing before the layer has one.
        anchor = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=self._wanted is not None)
        given: Tensor = _Pieces.apply(x, anchor, self._weights[name], call, axis, note)  # type: ignore[no-untyped-call]
        return given if bias is None else given.add(bias.reshape(-1, *[1] * _SPATIAL[func]))

    def _widened(self, piece: Tensor) -> Tensor:
        """A piece in float64, until the next one is."""
        if self._room is None or self._room.numel() < piece.numel() or self._room.device != piece.device:
            self._room = torch.empty(piece.numel(), dtype=torch.float64, device=piece.device)
        wide = self._room[: piece.numel()].view(piece.shape).copy_(piece)
        return wide if self._scale == 1 else wide.mul_(self._scale)


class _Pieces(torch.autograd.Function):
    """A layer whose weight is widened piece by piece, along its outputs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        _anchor: Tensor,
        weight: Tensor,
        call: Callable[[Tensor, Tensor], Tensor],
        axis: int,
        note: Callable[[Tensor, Tensor], None],
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.call, ctx.axis, ctx.note = call, axis, note
        return torch.cat([call(x, piece) for piece in weight.split(_rows(weight))], axis)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x, weight), (gradient,) = ctx.saved_tensors, gradients
        ctx.note(x, gradient)
        if not ctx.needs_input_grad[0]:
            return None, gradient.new_zeros(()), None, None, None, None
        total, rows = torch.zeros_like(x), _rows(weight)
        for piece, part in zip(weight.split(rows), gradient.split(rows, ctx.axis), strict=True):
            with torch.enable_grad():
                read = x.detach().requires_grad_()
                given = ctx.call(read, piece)
            total += torch.autograd.grad(given, read, part)[0]
        return total, gradient.new_zeros(()), None, None, None, None


def _rows(weight: Tensor) -> int:
    """Outputs in one piece."""
    return max(1, _PIECE * len(weight) // weight.numel())


def _stand_in(weight: Tensor) -> Tensor:
    return torch.full((), torch.nan, dtype=torch.float64, device=weight.device).expand(weight.shape)


def _is_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Is all in float64, are the channels in one group, and is nothing vectorized from outside?"""
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    is_double = args[0].dtype == torch.float64
    return is_double and groups == 1 and not _is_transformed()


def _is_transformed() -> bool:
    """Does `torch.func` vectorize or differentiate the code that calls?"""
    return torch._C._functorch.maybe_current_level() is not None  # noqa: SLF001  torch has no public question
