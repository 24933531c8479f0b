"""What a cut leaves of an optimizer: Esper beside Torch-Pruning, for every optimizer of torch and Lion.

Usage: python benchmarks/optimizers.py [--steps 3] [--json]

A small convolutional network in float64 is trained for a few steps with one half of its channels masked, then
cut. One more step is made and compared with the same step of the masked network. Torch-Pruning makes new
parameters, so the optimizer goes on with the old ones. A step that is not the masked one's is explained below
the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import (
    LBFGS,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from esper.anatomy import Anatomy
from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.errors import SurgeryError

Parameters = Iterable[nn.Parameter]


class Lion(Optimizer):
    """The sign of a momentum (Chen et al. 2023)."""

    def __init__(self, parameters: Parameters, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        del closure
        trained = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        for parameter in trained:
            momentum = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
            parameter.sub_((0.9 * momentum + 0.1 * parameter.grad).sign_(), alpha=self.param_groups[0]["lr"])
            momentum.lerp_(parameter.grad, 0.01)


MAKERS: dict[str, Callable[[Parameters], Optimizer]] = {
    "SGD, momentum": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda p: Adam(p, 1e-3),
    "AdamW": lambda p: AdamW(p, 1e-3),
    "NAdam": lambda p: NAdam(p, 1e-3),
    "RAdam": lambda p: RAdam(p, 1e-3),
    "RMSprop": lambda p: RMSprop(p, 1e-3, momentum=0.9),
    "Adagrad": lambda p: Adagrad(p, 1e-2),
    "Adadelta": lambda p: Adadelta(p, 0.1),
    "Lion": lambda p: Lion(p, 1e-3),
    "Adafactor, fixed step": lambda p: Adafactor(p, 1e-5, eps=(None, 100.0), d=1e9),
    "Adafactor": lambda p: Adafactor(p, 1e-2),
    "Muon": lambda p: Muon([w for w in p if w.dim() == 2], 0.01),
    "LBFGS": lambda p: LBFGS(p, 0.01, max_iter=2),
}


@dataclass(frozen=True)
class Row:
    """One optimizer with one tool. Errors are relative to the largest value compared."""

    optimizer: str
    tool: str
    trained: int
    parameters: int
    state_kept: int
    step_error: float
    refused: str = ""


class Network(nn.Module):
    """Two convolutions, a norm and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 24, 3)
        self.hidden, self.head = nn.Linear(24, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        out: Tensor = self.head(F.relu(self.hidden(x.mean((2, 3)))))
        return out


class Start:
    """A masked network in the middle of its training, from which both tools start."""

    def __init__(self, make: Callable[[Parameters], Optimizer], steps: int) -> None:
        torch.manual_seed(0)
        self.model = Network().double().train()
        self.make = make
        self.optimizer = make(self.model.parameters())
        self.x, self.y = torch.randn(16, 3, 10, 10).double(), torch.randint(0, 10, (16,))
        self.anatomy = inspect(self.model, self.x)
        self.keep = first_half(self.anatomy)
        mask(self.model, self.anatomy, self.keep)
        for _ in range(steps):
            step(self.model, self.optimizer, self.x, self.y)
            mask(self.model, self.anatomy, self.keep)

    def copied(self) -> tuple[nn.Module, Optimizer]:
        model = copy.deepcopy(self.model)
        optimizer = self.make(model.parameters())
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        return model, optimizer

    def measured(self, name: str, tool: str, cutter: Callable[[nn.Module, Optimizer, Start], None]) -> Row:
        model, optimizer = self.copied()
        masked, other = self.copied()
        count = len(list(model.parameters()))
        try:
            cutter(model, optimizer, self)
        except SurgeryError as refusal:
            return Row(name, tool, 0, count, 0, float("nan"), str(refusal))
        live = set(model.parameters())
        kept = sum(
            any(isinstance(v, Tensor) and v.numel() > 1 for v in optimizer.state.get(p, {}).values())
            for p in live
        )
        before = [p.detach().clone() for p in model.parameters()]
        step(model, optimizer, self.x, self.y)
        step(masked, other, self.x, self.y)
        mask(masked, self.anatomy, self.keep)
        moved = sum(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        expected = dict(masked.named_parameters())
        step_error = max(
            largest(p, remaining(expected[n], n, masked_axes(self.anatomy, self.keep)))
            for n, p in model.named_parameters()
        )
        return Row(name, tool, moved, count, kept, step_error)


def by_esper(model: nn.Module, optimizer: Optimizer, start: Start) -> None:
    cut(model, start.anatomy, start.keep, Inputs((start.x,)), (optimizer,))


def by_torch_pruning(model: nn.Module, optimizer: Optimizer, start: Start) -> None:
    del optimizer  # it cannot be told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning as tp

        graph = tp.DependencyGraph().build_dependency(model, start.x)
        for (tensor, axis), gone in masked_axes(start.anatomy, start.keep).items():
            layer = model.get_submodule(tensor.rpartition(".")[0])
            if axis == 0 and tensor.endswith("weight") and not isinstance(layer, nn.BatchNorm2d):
                prune = (
                    tp.prune_conv_out_channels
                    if isinstance(layer, nn.Conv2d)
                    else tp.prune_linear_out_channels
                )
                graph.get_pruning_group(layer, prune, gone.tolist()).prune()


def first_half(anatomy: Anatomy) -> BoolArray:
    """A mask that removes every other unit of every group."""
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    keep[::2] = False
    return keep


def mask(model: nn.Module, anatomy: Anatomy, keep: BoolArray) -> None:
    zero_masked(dict(model.named_parameters()), masked_axes(anatomy, keep))


def step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> None:
    def loss() -> float:
        model.zero_grad()
        value = F.cross_entropy(model(x), y)
        value.backward()
        return float(value.detach())

    if isinstance(optimizer, LBFGS):
        optimizer.step(loss)
    else:
        loss()
        optimizer.step()


def remaining(whole: Tensor, name: str, removed: dict[tuple[str, int], Any]) -> Tensor:
    for axis in range(whole.dim()):
        if (name, axis) in removed:
            stays = np.setdiff1d(np.arange(whole.shape[axis]), removed[name, axis])
            whole = whole.index_select(axis, torch.from_numpy(stays))
    return whole


def largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max().detach()) / max(float(theirs.abs().max().detach()), 1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description="what a cut leaves of an optimizer, beside Torch-Pruning")
    parser.add_argument("--steps", type=int, default=3, help="training steps before the cut")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, make in MAKERS.items():
        start = Start(make, options.steps)
        rows.append(start.measured(name, "esper", by_esper))
        rows.append(start.measured(name, "torch-pruning", by_torch_pruning))
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print_table(rows)


def print_table(rows: list[Row]) -> None:
    head = ["optimizer", "tool", "a step moves", "keep state", "one step against the masked network"]
    table = [head]
    for row in rows:
        shares = [f"{count} of {row.parameters}" for count in (row.trained, row.state_kept)]
        table.append(
            [
                row.optimizer,
                row.tool,
                *(["refused", "", ""] if row.refused else [*shares, f"{row.step_error:.1e}"]),
            ]
        )
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for row in rows:
        if row.refused:
            print(f"\n{row.optimizer}, {row.tool}: {row.refused}")
    print(
        "\nAdafactor and Muon choose their step size by the size or the RMS of a whole parameter, which a cut"
        "\nchanges on purpose; with a fixed step the factored variance itself is exact. Muon rounds to"
        "\nbfloat16 and trains matrices only."
    )


if __name__ == "__main__":
    main()
