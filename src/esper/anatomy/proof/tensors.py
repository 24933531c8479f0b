"""The live tensors behind the names of an anatomy, and how to resize them in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from esper.anatomy.graph import named_tensors
from esper.anatomy.structure import Anatomy
from esper.arrays import IntArray
from esper.errors import MaskError, SurgeryError


class Undo:
    """Steps that take a change back, run last first."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []

    def add(self, step: Callable[[], None]) -> None:
        self._steps.append(step)

    def run(self) -> None:
        while self._steps:
            self._steps.pop()()


def live_tensors(model: nn.Module, anatomy: Anatomy) -> dict[str, Tensor]:
    """The parameter or buffer behind every name of the anatomy.

    Raises:
        SurgeryError: the network does not have that tensor, or not of that shape.
    """
    named = named_tensors(model)
    tensors: dict[str, Tensor] = {}
    for info in anatomy.tensors:
        tensor = named.get(info.name)
        if tensor is None or tuple(tensor.shape) != info.shape:
            if not any(m.tensor == info.name for g in anatomy.groups for m in g.members):
                continue  # the loss's own tensors, or constants: nothing to cut there
            has = "is missing" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise SurgeryError(
                f"This anatomy is of another network: {info.name} {has}, shape {info.shape} was expected. "
                "Inspect the network again and use the new anatomy."
            )
        tensors[info.name] = tensor
    return tensors


def kept_indices(
    anatomy: Anatomy, removed: Mapping[tuple[str, int], IntArray]
) -> dict[str, dict[int, Tensor]]:
    """For every tensor that loses something: the coordinates that stay, by axis.

    Raises:
        MaskError: nothing would stay.
    """
    shapes = {info.name: info.shape for info in anatomy.tensors}
    kept: dict[str, dict[int, Tensor]] = {}
    for (name, axis), gone in removed.items():
        stays = torch.ones(shapes[name][axis], dtype=torch.bool, device="cpu")
        stays[torch.from_numpy(gone)] = False
        if not stays.any():
            raise MaskError(
                f"The mask removes all {gone.size} coordinates of axis {axis} of {name}, and a tensor cannot "
                "be empty. Keep at least one unit of every group."
            )
        kept.setdefault(name, {})[axis] = stays.nonzero().squeeze(1)
    return kept


def select(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """The part of a tensor that stays, with its memory format; a sparse gradient stays sparse."""
    result = tensor.detach()
    if result.is_sparse:
        return select(result.to_dense(), kept).to_sparse(result.sparse_dim())
    for axis, index in kept.items():
        result = result.index_select(axis, index.to(tensor.device))
    # `index_select` loses the channels-last format that a network may be kept in.
    is_plain = tensor.is_contiguous() or tensor.dim() != 4
    if not is_plain and tensor.is_contiguous(memory_format=torch.channels_last):
        return result.contiguous(memory_format=torch.channels_last)
    return result.contiguous()


def spread_out(tensor: Tensor, kept: Mapping[int, Tensor], shape: Sequence[int]) -> Tensor:
    """The inverse of `select`: values at their old places in a tensor of the old shape, zeros elsewhere."""
    result = tensor.detach()
    for axis, index in kept.items():
        wider = list(result.shape)
        wider[axis] = shape[axis]
        result = result.new_zeros(wider).index_copy_(axis, index.to(result.device), result)
    return result


def resize(tensor: Tensor, new: Tensor, undo: Undo) -> None:
    """Gives a live tensor content of another shape; optimizers, aliases and hooks keep the same object."""
    old, gradient = tensor.data, tensor.grad

    def back() -> None:
        _put(tensor, old)
        tensor.grad = gradient

    undo.add(back)
    _put(tensor, new)


def _put(tensor: Tensor, content: Tensor) -> None:
    tensor.grad = None
    # A loss that the training loop still holds keeps the node that accumulates this parameter's gradient
    # alive, with the old shape in it. Autograd drops that node only when the type changes, so the type
    # changes for a moment.
    other = torch.float64 if content.dtype != torch.float64 else torch.float32
    if tensor.requires_grad:
        tensor.data = torch.empty(0, dtype=other, device=content.device)
    tensor.data = content
