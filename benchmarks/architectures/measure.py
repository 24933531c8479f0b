"""One architecture cut by one tool, and checked without that tool's help."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW

from architectures.case import Architecture
from architectures.checks import (
    ASKED,
    ENOUGH,
    flops,
    in_type,
    largest,
    mask,
    outputs,
    parameters_differ,
    peak,
    runs,
    settle,
    step,
    tensors_in,
    unchanged,
)
from esper.anatomy import Anatomy
from esper.anatomy.cut import cut, cut_program, feasible
from esper.anatomy.proof import Inputs
from esper.anatomy.twin import plain
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import splits
from esper.errors import EsperError, SurgeryError

MOST_OF_A_GROUP = 0.75
ROUND = 8
FLOAT64, FLOAT32, STEP, STEP_IN_FLOAT32 = 1e-12, 1e-5, 1e-6, 1e-4


def by_esper(architecture: Architecture, row: Any) -> None:
    """Fills in the row for Esper."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, sample = architecture.network().eval(), architecture.inputs()
    row.flops_before = row.flops_after = flops(model, sample)
    start, memory = time.perf_counter(), peak()
    try:
        _cut_and_check(architecture, row, model, sample)
    except EsperError as error:
        row.reason = f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"
    if row.result == "refused" and row.groups:
        try:
            _cut_as_program(architecture, row)
        except EsperError as error:
            row.reason += f"; as a program {type(error).__name__}: {str(error).splitlines()[0][:150]}"
    row.seconds = row.seconds or time.perf_counter() - start
    row.peak_bytes = peak() - memory


def _cut_and_check(architecture: Architecture, row: Any, model: nn.Module, sample: Any) -> None:
    start = time.perf_counter()
    anatomy = inspect(model, sample)
    row.groups = len(anatomy.groups)
    if not anatomy.groups:
        row.reason = f"no units: {reasons(anatomy)}"
        return
    is_double = runs(copy.deepcopy(model).double(), in_type(sample, torch.float64))
    if is_double:
        model.double()
    given = in_type(sample, torch.float64) if is_double else sample
    optimizer = AdamW([p for p in model.parameters() if p.is_floating_point()], lr=1e-3)
    settle(model)
    step(model, optimizer, given)
    _let_go(model, given)
    twin, other = copy.deepcopy((model, optimizer))
    args, kwargs, _ = next(splits(given, with_target=False))
    probe = Inputs(args, kwargs)
    keep = half(model, anatomy, frozenset())
    try:
        cut(model, anatomy, keep, probe, (optimizer,))
    except SurgeryError as error:
        if not unchanged(model, twin):
            row.result, row.reason = "WRONG", f"half cut: {error}"
            return
        keep, refused = feasible(model, anatomy, keep, probe)
        if not refused:  # no group held it: memory, for one
            row.reason = str(error)
            return
        whole = frozenset(refused)
        keep = half(model, anatomy, whole)
        row.groups_left_whole, row.reason = len(whole), f"left whole: {next(iter(refused.values()))}"
        cut(model, anatomy, keep, probe, (optimizer,))
    row.seconds = time.perf_counter() - start
    _check(architecture, row, (model, optimizer), (twin, other), (anatomy, keep), is_double=is_double)


def _check(
    architecture: Architecture,
    row: Any,
    ours: tuple[nn.Module, AdamW],
    masked: tuple[nn.Module, AdamW],
    chosen: tuple[Anatomy, BoolArray],
    *,
    is_double: bool,
) -> None:
    """Compares the cut network with a masked copy of the whole one, on inputs that nobody has seen."""
    model, twin = ours[0], masked[0]
    mask(*masked, *chosen)
    _let_go(model, in_type(architecture.inputs(), torch.float64 if is_double else torch.float32))
    found: dict[torch.dtype, float] = {}
    for dtype in (torch.float64, torch.float32) if is_double else (torch.float32,):
        left, right = copy.deepcopy((model, twin))
        found[dtype] = max(
            largest(outputs(left.to(dtype), x), outputs(right.to(dtype), x))
            for x in (in_type(architecture.inputs(seed), dtype) for seed in (7, 8))
        )
    row.float64_error, row.float32_error = found.get(torch.float64), found[torch.float32]
    fresh = in_type(architecture.inputs(9), torch.float64 if is_double else torch.float32)
    step(*ours, fresh)
    step(*masked, fresh)
    mask(*masked, *chosen)
    row.step_error = parameters_differ(model, twin, *chosen)
    _let_go(model, fresh)
    row.flops_after = flops(copy.deepcopy(model).float(), architecture.inputs())
    limits = (
        (row.float64_error, FLOAT64),
        (row.float32_error, FLOAT32),
        (row.step_error, STEP if is_double else STEP_IN_FLOAT32),
    )
    if any(error is not None and not error <= limit for error, limit in limits):
        row.result = "WRONG"
        row.reason = f"float64 {row.float64_error}, float32 {row.float32_error}, step {row.step_error}"
    elif row.share >= ENOUGH:
        row.result = "pass"
    else:
        row.reason = row.reason or f"too little can go: {reasons(chosen[0])}"


def _let_go(model: nn.Module, sample: Any) -> None:
    """What some networks keep of their last pass hangs on its graph, and could not be copied."""
    with torch.no_grad():
        outputs(model, sample)


def _cut_as_program(architecture: Architecture, row: Any) -> None:
    """What the network's own code refuses can still be cut in its graph, for use; it is not trained on."""
    model = architecture.network().eval()
    args, kwargs, _ = next(splits(architecture.inputs(), with_target=False))
    anatomy = inspect(model, architecture.inputs())
    keep = half(model, anatomy, frozenset())
    made = cut_program(model, anatomy, keep, Inputs(args, kwargs))
    module = made.program.module()
    work = flops(module, architecture.inputs())
    if 1.0 - work / row.flops_before < ENOUGH:
        return
    zero_masked(dict(model.named_parameters()), masked_axes(anatomy, keep))
    error = 0.0
    for seed in (7, 8):
        given, named, _ = next(splits(architecture.inputs(seed), with_target=False))
        error = max(error, largest(*(tensors_in(plain(m(*given, **named))) for m in (module, model))))
    row.form, row.flops_after, row.step_error = "program", work, None
    row.float64_error, row.float32_error = made.equivalence.float64_error, error
    row.result = "pass" if error <= FLOAT32 else "WRONG"


def half(model: nn.Module, anatomy: Anatomy, whole: frozenset[str]) -> BoolArray:
    """The smallest equal fraction of every group whose removal halves the FLOPs, by magnitude."""
    order = _ascending(model, anatomy)
    asked = anatomy.flops() * (1 - ASKED)
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    for fraction in np.linspace(0.05, MOST_OF_A_GROUP, 29):
        for number, group in enumerate(anatomy.groups):
            if group.name not in whole:
                left = max(1, round((1 - fraction) * group.width))
                left = round(left / ROUND) * ROUND if left >= 2 * ROUND else left  # what fast kernels like
                gone = group.width - left
                keep[anatomy.offsets[number] + order[number][:gone]] = False
        if anatomy.flops(keep) <= asked:
            break
    return keep


def _ascending(model: nn.Module, anatomy: Anatomy) -> list[np.ndarray[Any, Any]]:
    """For every group its units from the smallest weights to the largest."""
    parameters = dict(model.named_parameters())
    order = []
    for group in anatomy.groups:
        size = np.zeros(group.width)
        for member in group.members:
            if member.role == "producer" and member.tensor in parameters:
                weight = parameters[member.tensor].detach().movedim(member.axis, 0)
                size += (
                    weight.flatten(1).square().sum(1).numpy()[member.index].sum(1) if weight.dim() > 1 else 0
                )
        order.append(np.argsort(size))
    return order


def reasons(anatomy: Anatomy) -> str:
    """The three most frequent reasons to stay, by the number of coordinates."""
    count: Counter[str] = Counter()
    for axis in anatomy.frozen:
        count[re.sub(r"_\d+\b", "", axis.reason)] += axis.width
    return "; ".join(f"{reason} ({width})" for reason, width in count.most_common(3))
