"""Module attributes that repeat a tensor's size, for the module types of `torch.nn`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from esper.anatomy.attention import becomes_cut
from esper.anatomy.tensors import Undo
from esper.errors import SurgeryError


def set_attribute(module: nn.Module, name: str, value: Any, undo: Undo) -> None:
    """Sets an attribute and notes how to take it back."""
    old = getattr(module, name)
    undo.add(lambda: setattr(module, name, old))
    setattr(module, name, value)


def refresh(module: nn.Module, path: str, kept: Mapping[str, Mapping[int, Tensor]], undo: Undo) -> None:
    """Makes a module's attributes agree with its tensors, which are already cut.

    `kept` are the coordinates that stayed, by full tensor name and axis.
    """
    prefix = f"{path}." if path else ""
    if isinstance(module, nn.Linear):
        _set(module, undo, out_features=module.weight.shape[0], in_features=module.weight.shape[1])
    elif isinstance(module, _ConvNd):
        _convolution(module, kept.get(f"{prefix}weight", {}), undo)
    elif isinstance(module, _NormBase):
        first = next((t for t in (module.weight, module.running_mean) if t is not None), None)
        if first is not None:
            _set(module, undo, num_features=first.shape[0])
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        width = module.num_channels // module.num_groups
        _set(module, undo, num_channels=module.weight.shape[0], num_groups=module.weight.shape[0] // width)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and module.weight is not None:
        _set(module, undo, normalized_shape=tuple(module.weight.shape))
    elif isinstance(module, nn.Embedding):
        _set(module, undo, num_embeddings=module.weight.shape[0], embedding_dim=module.weight.shape[1])
    elif isinstance(module, nn.PReLU):
        _set(module, undo, num_parameters=module.weight.shape[0])
    elif isinstance(module, nn.MultiheadAttention):
        _multihead(module, path, undo)
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers: weight is [in, out]
        _set(module, undo, nf=module.weight.shape[1])
        if hasattr(module, "nx"):
            _set(module, undo, nx=module.weight.shape[0])


def _set(module: nn.Module, undo: Undo, **values: Any) -> None:
    for name, value in values.items():
        if getattr(module, name) != value:
            set_attribute(module, name, value, undo)


def _convolution(module: _ConvNd, kept: Mapping[int, Tensor], undo: Undo) -> None:
    """Whole groups gone, or equal positions inside every group: told apart by which coordinates stayed."""
    grouped_axis = 0  # weight axis that runs over groups x channels of a group
    old_size = module.in_channels if isinstance(module, _ConvTransposeNd) else module.out_channels
    groups = module.groups
    if groups > 1 and grouped_axis in kept:
        per_group = old_size // groups
        groups = int((kept[grouped_axis] // per_group).unique().numel())
    first, second = module.weight.shape[0], module.weight.shape[1]
    if isinstance(module, _ConvTransposeNd):
        _set(module, undo, in_channels=first, out_channels=second * groups, groups=groups)
    else:
        _set(module, undo, out_channels=first, in_channels=second * groups, groups=groups)


def _multihead(module: nn.MultiheadAttention, path: str, undo: Undo) -> None:
    weight = module.out_proj.weight
    inner = weight.shape[1]
    if inner == module.num_heads * module.head_dim:
        return
    before = (module.__class__, module.num_heads, module._qkv_same_embed_dim)

    def back() -> None:
        module.__class__, module.num_heads, module._qkv_same_embed_dim = before

    undo.add(back)
    try:
        becomes_cut(module, inner // module.head_dim)
    except ValueError as error:
        raise SurgeryError(f"Heads of {path} cannot be cut: {error}. Leave its heads whole.") from error
