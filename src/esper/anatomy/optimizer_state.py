"""An optimizer's state through a cut: state of a parameter's shape loses the same coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor
from torch.optim import Optimizer

from esper.anatomy.tensors import Undo, select
from esper.errors import SurgeryError


def cut_state(
    optimizer: Optimizer, names: Mapping[Tensor, str], kept: Mapping[str, Mapping[int, Tensor]], undo: Undo
) -> None:
    """Cuts the state of every parameter that is about to be cut, while parameters have their old shape.

    Args:
        optimizer: any optimizer whose state is element-wise (SGD with momentum, Adam, AdamW, ...).
        names: the parameters and their names.
        kept: for every tensor that loses something, the coordinates that stay.
        undo: takes what is changed here back.

    Raises:
        SurgeryError: a state tensor has neither the parameter's shape nor a single element.
    """
    changes: list[tuple[dict[str, object], str, Tensor]] = []
    for parameter, state in optimizer.state.items():
        axes = kept.get(names.get(parameter, ""))
        if not axes:
            continue
        for key, value in state.items():
            if not isinstance(value, Tensor) or (value.numel() <= 1 and value.shape != parameter.shape):
                continue
            if value.shape != parameter.shape:
                raise SurgeryError(
                    f"{type(optimizer).__name__} holds state {key!r} of shape {tuple(value.shape)} for "
                    f"{names[parameter]} of shape {tuple(parameter.shape)}; only element-wise state can be "
                    "cut with it. Use SGD, Adam or AdamW, or cut without this optimizer and start a new one."
                )
            changes.append((state, key, select(value, axes)))
    for state, key, new in changes:
        undo.add(partial(state.__setitem__, key, state[key]))
        state[key] = new


def named(parameters: Mapping[str, Tensor]) -> dict[Tensor, str]:
    """The inverse of a name table, by identity."""
    return {tensor: name for name, tensor in parameters.items()}
