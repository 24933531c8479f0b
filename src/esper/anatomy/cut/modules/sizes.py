"""Module attributes that repeat a tensor's size, for the module types of `torch.nn`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from esper.anatomy.cut.modules.attention import becomes_cut, is_square
from esper.anatomy.proof import Undo
from esper.errors import SurgeryError

_BEHIND_A_WEIGHT = (
    "weight",
    "weight_v",  # torch.nn.utils.weight_norm
    "weight_orig",  # torch.nn.utils.spectral_norm and prune
    "parametrizations.weight.original1",  # the direction of parametrizations.weight_norm
    "parametrizations.weight.original",
)


def set_attribute(module: nn.Module, name: str, value: Any, undo: Undo) -> None:
    """Sets an attribute and notes how to take it back."""
    old = getattr(module, name)
    undo.add(lambda: setattr(module, name, old))
    setattr(module, name, value)


def refresh(module: nn.Module, path: str, kept: Mapping[str, Mapping[int, Tensor]], undo: Undo) -> None:
    """Makes a module's attributes agree with its tensors, which are already cut.

    `kept` are the coordinates that stayed, by full tensor name and axis.
    """
    name, weight = _own_weight(module)
    if isinstance(module, _ConvNd) and weight is not None:
        _convolution(module, weight, kept.get(f"{path}.{name}" if path else name, {}), undo)
    elif isinstance(module, nn.MultiheadAttention):
        _multihead(module, path, undo)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        _set(module, undo, **_sizes_of_cells(module))
    elif isinstance(module, nn.TransformerEncoder):
        attentions = [m for m in module.modules() if isinstance(m, nn.MultiheadAttention)]
        if not all(map(is_square, attentions)):
            _set(module, undo, use_nested_tensor=False)  # nested tensors go with the fused path only
    else:
        _set(module, undo, **_sizes_of(module))


def _own_weight(module: nn.Module) -> tuple[str, Tensor | None]:
    """The parameter of the weight's shape, and its name.

    Of a parametrized weight it is the one behind it: to read that weight is to compute it, which may change
    buffers.
    """
    for name in _BEHIND_A_WEIGHT:
        owner, _, last = name.rpartition(".")
        if owner and not is_parametrized(module, "weight"):
            continue
        holder = module.get_submodule(owner)
        own: dict[str, Tensor | None] = vars(holder)["_parameters"]
        if own.get(last) is not None:
            return name, own[last]
    return "weight", None


def _sizes_of(module: nn.Module) -> dict[str, Any]:
    """The attributes that repeat the size of a tensor, as they should be."""
    _, weight = _own_weight(module)
    if isinstance(module, _NormBase):
        first = next((t for t in (weight, module.running_mean) if t is not None), None)
        return {} if first is None else {"num_features": first.shape[0]}
    if weight is None:
        return {}
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, nn.GroupNorm):
        # The width of a group stays; groups go whole.
        width = module.num_channels // module.num_groups
        return {"num_channels": weight.shape[0], "num_groups": weight.shape[0] // width}
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    if type(module).__name__ == "Conv1D":  # transformers: weight is [in, out]
        sizes = {"nf": weight.shape[1], "nx": weight.shape[0]}
        return {name: size for name, size in sizes.items() if hasattr(module, name)}
    return {}


def _sizes_of_cells(module: nn.RNNBase | nn.RNNCellBase) -> dict[str, Any]:
    own: dict[str, Tensor | None] = vars(module)["_parameters"]
    layer = "_l0" if isinstance(module, nn.RNNBase) else ""
    inputs, hidden, projection = (own.get(f"weight_{part}{layer}") for part in ("ih", "hh", "hr"))
    if inputs is None or hidden is None:  # parametrized: read nothing, change nothing
        return {}
    # The gates lie one below the other: [gates x hidden, ...].
    is_lstm = isinstance(module, (nn.LSTM, nn.LSTMCell))
    gates = 4 if is_lstm else 3 if isinstance(module, (nn.GRU, nn.GRUCell)) else 1
    sizes = {"input_size": inputs.shape[1], "hidden_size": hidden.shape[0] // gates}
    return sizes if projection is None else {**sizes, "proj_size": projection.shape[0]}


@contextmanager
def bare_norms_follow(model: nn.Module, undo: Undo) -> Iterator[None]:
    """While the block runs, norms without tensors of their own take their width from what they are given."""

    def follow(module: nn.Module, args: tuple[Any, ...]) -> None:
        channels = args[0].shape[1] if args and isinstance(args[0], Tensor) and args[0].dim() > 1 else 0
        if channels and isinstance(module, nn.GroupNorm):
            width = module.num_channels // module.num_groups
            _set(module, undo, num_channels=channels, num_groups=channels // width)
        elif channels and isinstance(module, _NormBase):
            _set(module, undo, num_features=channels)

    norms = [m for m in model.modules() if isinstance(m, (nn.GroupNorm, _NormBase))]
    # Without tensors, only what it is given tells a norm its width.
    bare = [m for m in norms if next(chain(m.parameters(), m.buffers()), None) is None]
    hooks = [module.register_forward_pre_hook(follow) for module in bare]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _set(module: nn.Module, undo: Undo, **values: Any) -> None:
    for name, value in values.items():
        if getattr(module, name) != value:
            set_attribute(module, name, value, undo)


def _convolution(module: _ConvNd, weight: Tensor, kept: Mapping[int, Tensor], undo: Undo) -> None:
    """Whole groups gone, or equal positions inside every group: told apart by which coordinates stayed."""
    grouped_axis = 0  # weight axis that runs over groups x channels of a group
    old_size = module.in_channels if isinstance(module, _ConvTransposeNd) else module.out_channels
    groups = module.groups
    if groups > 1 and grouped_axis in kept:
        # Groups that have a coordinate left: fewer where whole groups went, all where each lost some.
        per_group = old_size // groups
        groups = int(np.unique(kept[grouped_axis].numpy() // per_group).size)
    first, second = weight.shape[0], weight.shape[1]
    if isinstance(module, _ConvTransposeNd):
        _set(module, undo, in_channels=first, out_channels=second * groups, groups=groups)
    else:
        _set(module, undo, out_channels=first, in_channels=second * groups, groups=groups)


def _multihead(module: nn.MultiheadAttention, path: str, undo: Undo) -> None:
    if is_square(module):
        return
    before, attributes = module.__class__, dict(vars(module))

    def back() -> None:
        module.__class__ = before
        vars(module).update(attributes)

    undo.add(back)
    try:
        becomes_cut(module)
    except ValueError as error:
        raise SurgeryError(f"{path} cannot be cut: {error}. Leave its heads and its stream whole.") from error
