"""Torch-Pruning's scores of the same units: Taylor from all analysis batches, magnitude, BN gamma, random."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from esper.arrays import FloatArray
from rankings.scores import Scores
from rankings.subjects import Subject


def peer_scores(subject: Subject) -> Scores:
    """What the peer gives for the groups that it finds; NaN for a unit in none of them."""
    import torch_pruning as tp

    model = copy.deepcopy(subject.model)
    start = time.perf_counter()
    for inputs, targets in subject.seen:
        subject.loss(model(inputs), targets).backward()
    calibrated = time.perf_counter() - start
    importances = {
        "Torch-Pruning: Taylor": tp.importance.GroupTaylorImportance(),
        "Torch-Pruning: magnitude": tp.importance.GroupMagnitudeImportance(),
        "Torch-Pruning: BN gamma": tp.importance.BNScaleImportance(),
        "Torch-Pruning: random": tp.importance.RandomImportance(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, subject.seen[0][0])
        found: Scores = {}
        for name, importance in importances.items():
            torch.manual_seed(0)
            start = time.perf_counter()
            values = _units(subject, model, graph, importance)
            spent = time.perf_counter() - start + (calibrated if name.endswith("Taylor") else 0.0)
            if np.isfinite(values).any():
                found[name] = values, spent
    return found


def _units(subject: Subject, model: nn.Module, graph: Any, importance: Any) -> FloatArray:
    """The peer scores coordinates of modules; a unit has the mean of its own, as the peer does for heads."""
    of_module: dict[str, FloatArray] = {}
    names = {module: name for name, module in model.named_modules()}
    for group in graph.get_all_groups():
        scores = importance(group)
        if scores is None:
            continue
        for item in group:
            module = item.dep.target.module
            if module in names and graph.is_out_channel_pruning_fn(item.dep.handler):
                width = graph.get_out_channels(module)
                each = of_module.setdefault(names[module], np.full(width, np.nan))
                each[np.asarray(item.idxs)] = scores.double().numpy()[np.asarray(item.root_idxs)]
    values = np.full(subject.anatomy.num_units, np.nan)
    for number, group in enumerate(subject.anatomy.groups):
        for member in group.members:
            module = member.tensor.rpartition(".")[0]
            if member.role == "producer" and member.axis == 0 and module in of_module:
                values[subject.anatomy.unit_slice(number)] = of_module[module][member.index].mean(1)
                break
    return values
