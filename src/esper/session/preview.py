"""The last look before a mask is applied: the live network under the mask, measured without touching it.

A plan rests on the checkpoint of the epoch before. Weights have moved since, so the mask is measured once
more on the weights that it would be applied to, with the running statistics that they would then get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from esper.anatomy.graph import call_with, primary_output, split_sample, undisturbed
from esper.anatomy.mend import reconstruction
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import HeldOut, merged, resized
from esper.elesh import RECALIBRATION_SAMPLES, correct
from esper.kasmina import LiveNetwork
from esper.leyline import Level
from esper.urabrask import Measurement, Verdict, judge, level_of
from esper.urabrask import Settings as ValidationSettings


@dataclass(frozen=True, eq=False)
class Preview:
    """Quality now and under the mask; what belongs to the mask: running statistics, changes of weights."""

    before: Measurement
    after: Measurement
    statistics: dict[str, Tensor]
    changes: dict[str, Tensor]


def apply_statistics(model: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Gives the live network new running statistics, by buffer name."""
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, value in statistics.items():
            buffers[name].copy_(value)


def recalibrate(network: LiveNetwork, held_out: HeldOut) -> None:
    """Measures the live network's running statistics anew, after its units have changed."""
    live = {name: p.detach() for name, p in network.model.named_parameters()}
    with undisturbed(network.model), torch.no_grad():
        batches = merged(held_out.calibration, RECALIBRATION_SAMPLES)
        statistics = _recalibrated(network, live, batches)
    apply_statistics(network.model, statistics)


def confirm(
    network: LiveNetwork,
    held_out: HeldOut,
    keep: BoolArray,
    settings: ValidationSettings,
    *,
    reconstruct: bool = False,
) -> tuple[str, Preview]:
    """Why the mask must not be applied to the weights as they are now ('' if it may), and what was measured.

    Stricter than the validator before it: the mean itself has to be within the limit.
    """
    seen = preview(network, held_out, keep, reconstruct=reconstruct)
    level = level_of(network.anatomy, network.masks.keep, keep)
    verdict, is_within = compared(seen.before, seen.after, level, settings)
    return "" if is_within else verdict.reason, seen


def compared(
    before: Measurement, after: Measurement, level: Level, settings: ValidationSettings
) -> tuple[Verdict, bool]:
    """The verdict about a mask on live weights, and whether the mean itself is within the limit."""
    verdict = judge(before, after, level, settings.model_copy(update={"require_gradients": False}))
    cost = verdict.retention
    return verdict, verdict.is_accepted and cost is not None and cost.drop <= cost.limit


def measured(network: LiveNetwork, held_out: HeldOut) -> Measurement:
    """Quality of the live network as it is on the held-out validation batches."""
    live = {name: p.detach() for name, p in network.model.named_parameters()}
    with undisturbed(network.model), torch.no_grad():
        return _on_validation(network, held_out, live)[0]


def preview(
    network: LiveNetwork, held_out: HeldOut, keep: BoolArray, *, reconstruct: bool = False
) -> Preview:
    """Measures the live network as it is and as it would be under `keep`, on the same held-out batches."""
    live = {name: p.detach() for name, p in network.model.named_parameters()}
    axes = masked_axes(network.anatomy, keep)
    masked = {**live, **{name: live[name].clone() for name, _ in axes}}
    zero_masked(masked, axes)
    with undisturbed(network.model), torch.no_grad():
        before, judged = _on_validation(network, held_out, live)
        batches = merged(held_out.calibration, RECALIBRATION_SAMPLES)
        changes = _changes(network, keep, batches) if reconstruct else {}
        masked |= {name: masked[name] + change for name, change in changes.items()}
        statistics = _recalibrated(network, masked, batches)
        after = _quality(network, {**masked, **statistics}, judged)
    return Preview(before, after, statistics, changes)


def _changes(network: LiveNetwork, keep: BoolArray, batches: Sequence[Any]) -> dict[str, Tensor]:
    """What makes up for the units that go, in weights that read them."""
    graph, now = network.graph, network.masks.keep
    fitting = batches if graph.is_batch_dynamic else resized(batches, graph.batch)
    usable = [_on_device(network.model, batch) for batch in fitting]
    return reconstruction(graph, network.anatomy, network.tensors(), now, keep, usable)


def _on_validation(
    network: LiveNetwork, held_out: HeldOut, tensors: dict[str, Tensor]
) -> tuple[Measurement, Sequence[Any]]:
    """Quality with these tensors, and the batches that it was measured on.

    Samples that can be judged one by one need no small batches, which only losses are paired by.
    """
    batches: Sequence[Any] = merged(held_out.validation, RECALIBRATION_SAMPLES)
    quality = _quality(network, tensors, batches)
    if quality.correctness is not None:
        return quality, batches
    batches = list(held_out.validation)
    return _quality(network, tensors, batches), batches


def _quality(network: LiveNetwork, tensors: dict[str, Tensor], batches: Sequence[Any]) -> Measurement:
    correctness: list[float] | None = []
    losses = []
    for batch in batches:
        args, kwargs, target = split_sample(_on_device(network.model, batch), with_target=True)
        output = call_with(network.model, tensors, args, kwargs)
        losses.append(float(network.loss(output, target)))
        right = correct(primary_output(output), target)
        correctness = None if right is None or correctness is None else [*correctness, *right]
    return Measurement(None if correctness is None else np.asarray(correctness), np.asarray(losses))


def _recalibrated(
    network: LiveNetwork, tensors: dict[str, Tensor], batches: Sequence[Any]
) -> dict[str, Tensor]:
    """Running statistics of the masked network: the mean over the batches' own."""
    norms = {
        name: module
        for name, module in network.model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    }
    if not norms:
        return {}
    fresh = {f"{name}.{kind}": getattr(m, kind).clone() for name, m in norms.items() for kind in _KINDS}
    counters = {
        f"{name}.num_batches_tracked": torch.zeros_like(m.num_batches_tracked)
        for name, m in norms.items()
        if m.num_batches_tracked is not None
    }
    momenta = {name: module.momentum for name, module in norms.items()}
    try:
        for module in norms.values():
            module.train()
            module.momentum = None  # a plain mean over the batches
        for batch in batches:
            args, kwargs, _ = split_sample(_on_device(network.model, batch), with_target=True)
            call_with(network.model, {**tensors, **fresh, **counters}, args, kwargs)
    finally:
        for name, module in norms.items():
            module.momentum = momenta[name]
            module.eval()
    return fresh


_KINDS = ("running_mean", "running_var")


def _on_device(model: nn.Module, batch: Any) -> Any:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
