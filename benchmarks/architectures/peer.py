"""The same architecture cut by Torch-Pruning, with the recipe of its documentation."""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from architectures.case import Architecture
from architectures.checks import ENOUGH, flops, outputs, peak

_PROJECTIONS = (
    "q",
    "k",
    "v",
    "qkv",
    "query",
    "key",
    "value",
    "q_proj",
    "k_proj",
    "v_proj",
    "query_key_value",
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")


def by_torch_pruning(architecture: Architecture, row: Any) -> None:
    """Half of every group by magnitude; then one forward and one backward pass must work."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, sample = architecture.network().eval(), architecture.inputs()
    row.flops_before = row.flops_after = flops(model, sample)
    expected = [leaf.shape for leaf in outputs(model, sample)]
    start, memory = time.perf_counter(), peak()
    before = sum(p.numel() for p in model.parameters())
    try:
        prune(model, sample)
    except Exception as error:  # noqa: BLE001  a peer may fail in any way; what is counted is that it did
        after = sum(p.numel() for p in model.parameters())
        row.result = "refused" if after == before else "WRONG"
        row.reason = f"{'' if after == before else 'half cut: '}{type(error).__name__}: {str(error)[:120]}"
    else:
        _judge(model, sample, expected, row)
    row.seconds, row.peak_bytes = time.perf_counter() - start, peak() - memory


def prune(model: nn.Module, sample: Any) -> None:
    """About half of the FLOPs, as the documentation of the tool does it."""
    import torch_pruning as tp

    last = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv1d))][-1]
    pruner = tp.pruner.BasePruner(
        model,
        sample,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.3,  # of widths: about half of the FLOPs where both sides of a layer shrink
        ignored_layers=[last],
        num_heads=_heads(model),
        prune_num_heads=True,
        head_pruning_ratio=0.5,
        output_transform=lambda output: [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)],
    )
    pruner.step()


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """What the tool asks to be told: how many heads every projection has."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        heads = next(
            (getattr(module, name) for name in _HEADS if isinstance(getattr(module, name, None), int)), 0
        )
        for name, child in module.named_children():
            if heads and name in _PROJECTIONS and isinstance(child, nn.Linear):
                found[child] = heads
    return found


def _judge(model: nn.Module, sample: Any, expected: list[torch.Size], row: Any) -> None:
    try:
        found = outputs(model, sample)
        sum((leaf.sum() for leaf in found if leaf.requires_grad), torch.zeros(())).backward()
        row.flops_after = flops(model, sample)
    except Exception as error:  # noqa: BLE001  a network that the peer broke may raise anything
        row.result, row.reason = "WRONG", f"dead forward: {type(error).__name__}: {str(error)[:120]}"
        return
    if [leaf.shape for leaf in found] != expected:
        row.result, row.reason = "WRONG", "outputs have another shape"
    elif row.share >= ENOUGH:
        row.result = "pass"
    else:
        row.reason = "too little went"
