"""What is measured on a network without any tool's help: FLOPs, outputs, one step, a masked copy."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import AdamW
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from esper.anatomy import Anatomy
from esper.anatomy.graph import without_caches
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import splits

ASKED = 0.5
ENOUGH = ASKED / 2

_NOISE = 1e-12
"""A gradient below this share of the network's largest is rounding."""
_MOVED = 2e-3
"""Most that two steps in opposite directions are apart: twice the learning rate."""


def flops(model: nn.Module, sample: Any) -> float:
    """Of one sample, by torch's counter."""
    forget(model)
    args, kwargs, _ = next(splits(sample, with_target=False))
    trained = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(requires_grad=False)  # the counter stumbles over parameters without a graph
    torch.backends.mha.set_fastpath_enabled(False)  # fused operators would not be counted
    with (
        FlopCounterMode(display=False, custom_mapping=_experts()) as counter,
        torch.no_grad(),
        torch.backends.mkldnn.flags(enabled=False),
        sdpa_kernel(SDPBackend.MATH),
    ):
        model(*args, **kwargs)
    for parameter in trained:
        parameter.requires_grad_()
    total: int = counter.get_total_flops()
    return total / 2


def _experts() -> dict[Any, Any]:
    """How to count the operators that multiply rows by the matrix of their expert."""
    found = (
        getattr(torch.ops.aten, "_grouped_mm", None),
        getattr(torch.ops.transformers, "grouped_mm_fallback", None),
    )
    return {operator: _rows_times_matrix for operator in found if operator}


def _rows_times_matrix(rows: torch.Size, matrices: torch.Size, *_: Any, **__: Any) -> int:
    return 2 * rows[0] * matrices[1] * matrices[2]


def forget(model: nn.Module) -> None:
    """What some networks keep of eval mode, perhaps in another type, is forgotten when they train."""
    if not isinstance(model, fx.GraphModule):  # a program is in eval mode for good
        is_training = model.training
        model.train(not is_training).train(is_training)


def outputs(model: nn.Module, sample: Any) -> list[Tensor]:
    args, kwargs, _ = next(splits(sample, with_target=False))
    forget(model)
    torch.manual_seed(0)  # some networks draw random numbers
    return tensors_in(without_caches(model(*args, **kwargs)))


def tensors_in(output: Any) -> list[Tensor]:
    """All that can be compared."""
    leaves = pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def runs(model: nn.Module, sample: Any) -> bool:
    """Does it compute numbers? Some networks compute NaN in a type that they were not made for."""
    try:
        return not any(bool(leaf.isnan().any()) for leaf in outputs(model, sample))
    except (RuntimeError, TypeError, ValueError):
        return False


def in_type(sample: Any, dtype: torch.dtype) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, sample
    )


def settle(model: nn.Module) -> None:
    """Batch statistics as in training, no dropout: networks of different width draw differently."""
    model.train()  # some keep in eval mode what they computed, until then
    model.eval()
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.train()


def step(model: nn.Module, optimizer: AdamW, sample: Any) -> None:
    """One step on a loss that every output has a part in."""
    settle(model)
    optimizer.zero_grad()
    total: Any = 0.0
    for number, leaf in enumerate(outputs(model, sample)):
        if leaf.requires_grad:
            weights = torch.linspace(-1.0, 1.5 + number, leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape)
            total = total + (leaf * weights).mean() + leaf.square().mean()
    total.backward()
    optimizer.step()
    model.train()
    model.eval()


def mask(model: nn.Module, optimizer: AdamW, anatomy: Anatomy, keep: BoolArray) -> None:
    axes = masked_axes(anatomy, keep)
    parameters = dict(model.named_parameters())
    zero_masked(parameters, axes)
    for key in ("exp_avg", "exp_avg_sq"):
        state = {
            n: optimizer.state[p][key] for n, p in parameters.items() if key in optimizer.state.get(p, {})
        }
        zero_masked(state, axes)


def parameters_differ(small: nn.Module, whole: nn.Module, anatomy: Anatomy, keep: BoolArray) -> float:
    """After a step of both, which has left its gradients; a gradient that is rounding alone says nothing.

    A bias before a batch norm has none in truth, and AdamW moves it by the sign of what is left.
    """
    removed = anatomy.removed_indices(keep)
    expected = dict(whole.named_parameters())
    gradients = [p.grad.abs().max() for p in whole.parameters() if p.grad is not None and p.numel()]
    noise = _NOISE * float(torch.stack(gradients).max()) if gradients else 0.0
    worst = 0.0
    for name, parameter in small.named_parameters():
        left, gradient = expected[name].detach(), expected[name].grad
        for axis in range(left.dim()):
            if (name, axis) in removed:
                stays = torch.from_numpy(np.setdiff1d(np.arange(left.shape[axis]), removed[name, axis]))
                left = left.index_select(axis, stays)
                gradient = None if gradient is None else gradient.index_select(axis, stays)
        mine = parameter.detach()
        if gradient is not None and parameter.grad is not None and mine.shape == left.shape:
            is_noise = (gradient.abs() < noise) & (parameter.grad.abs() < noise)
            mine = torch.where(is_noise & ((mine - left).abs() < _MOVED), left, mine)
        worst = max(worst, largest([mine], [left]))
    return worst


def unchanged(model: nn.Module, twin: nn.Module) -> bool:
    left, right = model.state_dict(), twin.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name].nan_to_num(), right[name].nan_to_num()) for name in left
    )


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference over the largest value, over all tensors; infinite where shapes differ."""
    worst = 0.0 if len(ours) == len(theirs) else float("inf")
    for a, b in zip(ours, theirs, strict=False):
        if a.shape != b.shape:
            return float("inf")
        apart = a != b  # the same infinity at the same place is no difference
        if bool(apart.any()):
            scale = max(float(b.abs().masked_fill(~b.isfinite(), 0.0).max()), 1e-3)
            error = float((a - b)[apart].abs().max()) / scale
            worst = max(worst, error if error == error else float("inf"))
    return worst


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_seconds() -> float:
    """What this process has computed so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
