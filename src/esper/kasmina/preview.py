"""The last look before a mask is applied: the live network under the mask, measured without touching it.

A plan rests on the checkpoint of the epoch before. Weights have moved since, so the mask is measured once
more on the weights that it would be applied to, with the running statistics that they would then get.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from esper.anatomy.mend import reconstruction
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import HeldOut, device_of, on_device
from esper.kasmina.network import LiveNetwork
from esper.leyline import Level
from esper.urabrask import Measurement, Verdict, evaluate, joined, judge, level_of, run_twin, usable
from esper.urabrask import Settings as ValidationSettings

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Preview:
    """Quality now and under the mask; what belongs to the mask: running statistics, changes of weights."""

    before: Measurement
    after: Measurement
    statistics: State
    changes: State


def apply_statistics(model: nn.Module, statistics: Mapping[str, Tensor]) -> None:
    """Gives the live network new running statistics, by buffer name."""
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        for name, value in statistics.items():
            buffers[name].copy_(value)


def recalibrate(network: LiveNetwork, held_out: HeldOut) -> None:
    """Measures the live network's running statistics anew, after its units have changed."""
    apply_statistics(network.model, _statistics(network, network.tensors(), _calibration(network, held_out)))


def confirm(
    network: LiveNetwork,
    held_out: HeldOut,
    keep: BoolArray,
    settings: ValidationSettings,
    *,
    reconstruct: bool = False,
    in_doubt: bool = False,
) -> tuple[str, Preview]:
    """Why the mask must not be applied to the weights as they are now ('' if it may), and what was measured.

    Stricter than the validator before it: the mean itself has to be within the limit; with `in_doubt` it is
    enough if that cannot be ruled out.
    """
    look = preview(network, held_out, keep, reconstruct=reconstruct)
    level = level_of(network.anatomy, network.masks.keep, keep)
    verdict, is_within = compared(look.before, look.after, level, settings)
    return "" if is_within or (in_doubt and verdict.is_accepted) else verdict.reason, look


def compared(
    before: Measurement, after: Measurement, level: Level, settings: ValidationSettings
) -> tuple[Verdict, bool]:
    """The verdict about a mask on live weights, and whether the mean itself is within the limit."""
    verdict = judge(before, after, level, settings.model_copy(update={"require_gradients": False}))
    cost = verdict.retention
    return verdict, verdict.is_accepted and cost is not None and cost.drop <= cost.limit


def measured(network: LiveNetwork, held_out: HeldOut) -> Measurement:
    """Quality of the live network as it is on the held-out validation batches."""
    return _on_validation(network, held_out, network.tensors())[0]


def preview(
    network: LiveNetwork, held_out: HeldOut, keep: BoolArray, *, reconstruct: bool = False
) -> Preview:
    """Measures the live network as it is and as it would be under `keep`, on the same held-out batches."""
    live, graph = network.tensors(), network.graph
    calibration = _calibration(network, held_out)
    before, judged = _on_validation(network, held_out, live)
    # The network under the mask: its weights, what makes up for it, then the statistics that these bring.
    axes = masked_axes(network.anatomy, keep)
    masked = {**live, **{name: live[name].clone() for name, _ in axes}}
    zero_masked(masked, axes)
    changes: State = {}
    if reconstruct:
        now = network.masks.keep
        changes = reconstruction(graph, network.anatomy, live, now, keep, calibration)
    masked |= {name: masked[name] + change for name, change in changes.items()}
    statistics = _statistics(network, masked, calibration)
    after = evaluate(run_twin(graph, {**masked, **statistics}), judged)
    return Preview(before, after, statistics, changes)


def _on_validation(
    network: LiveNetwork, held_out: HeldOut, tensors: State
) -> tuple[Measurement, Sequence[Any]]:
    """Quality with these tensors, and the batches that it was measured on.

    Samples that can be judged one by one need no small batches, which only losses are paired by.
    """
    graph, validation = network.graph, on_device(held_out.validation, device_of(network.model))
    batches: Sequence[Any] = joined(graph, validation)
    quality = evaluate(run_twin(graph, tensors), batches)
    if quality.correctness is not None:
        return quality, batches
    batches = tuple(usable(graph, validation))
    return evaluate(run_twin(graph, tensors), batches), batches


def _calibration(network: LiveNetwork, held_out: HeldOut) -> Sequence[Any]:
    return joined(network.graph, on_device(held_out.calibration, device_of(network.model)))


def _statistics(network: LiveNetwork, tensors: State, batches: Sequence[Any]) -> State:
    """Running statistics of a network with these tensors: the mean over the batches' own."""
    after = network.graph.recalibrated(tensors, batches)
    return {name: value for name, value in after.items() if value is not tensors[name]}
