"""What a cut leaves behind: Esper beside Torch-Pruning on a resnet18 in the middle of its training.

Usage: python benchmarks/cut_peer.py [--steps 3] [--repeats 5] [--json]

Both remove half of the channels of every group by magnitude, after a few steps of SGD with momentum. Then one
more step is made and compared with the same step of the masked network, in float64, where rounding hides
nothing. Torch-Pruning makes new parameters, so the optimizer goes on with the old ones; the last column gives
it a new optimizer, as its documentation does.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from esper.anatomy import Anatomy
from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray

Axes = dict[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class Result:
    """One tool's figures. Errors are relative to the largest value compared."""

    tool: str
    trained: int
    parameters: int
    state_kept: int
    output_error: float
    step_error: float
    size_fraction: float
    seconds: float
    speedup: float


def main() -> None:
    parser = argparse.ArgumentParser(description="a cut in the middle of training, beside Torch-Pruning")
    parser.add_argument("--steps", type=int, default=3, help="training steps before the cut")
    parser.add_argument("--repeats", type=int, default=5, help="timed forward passes of each network")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = Start(options.steps)
    results = [
        start.measured("esper", by_esper, options.repeats, keeps_optimizer=True),
        start.measured("torch-pruning", by_torch_pruning, options.repeats, keeps_optimizer=True),
        start.measured("its new optimizer", by_torch_pruning, options.repeats, keeps_optimizer=False),
    ]
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
    else:
        print_table(results)


class Block(nn.Module):
    """The basic residual block."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """The widths and depths of resnet18 (62 parameters), for images of 32 x 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        widths = [64, 64, 128, 256, 512]
        blocks = [
            Block(
                widths[stage] if first else widths[stage + 1], widths[stage + 1], 2 if first and stage else 1
            )
            for stage in range(4)
            for first in (True, False)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


class Start:
    """A network in the middle of its training, from which every tool starts."""

    def __init__(self, steps: int) -> None:
        torch.manual_seed(0)
        self.model = ResNet18().double().train()
        self.optimizer = SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.x, self.y = torch.randn(8, 3, 32, 32, dtype=torch.float64), torch.randint(0, 10, (8,))
        for _ in range(steps):
            step(self.model, self.optimizer, self.x, self.y)

    def measured(
        self,
        tool: str,
        cutter: Callable[[nn.Module, SGD, Tensor], Axes],
        repeats: int,
        *,
        keeps_optimizer: bool,
    ) -> Result:
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        begin = time.perf_counter()
        removed = cutter(model, optimizer, self.x)
        seconds = time.perf_counter() - begin
        if not keeps_optimizer:
            optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
        masked, other = copy.deepcopy((self.model, self.optimizer))
        mask(masked, other, removed)
        output_error = largest(model.eval()(self.x), masked.eval()(self.x))
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        kept = sum(
            "momentum_buffer" in optimizer.state.get(p, {}) for p in model.parameters() if id(p) in held
        )
        before = [p.detach().clone() for p in model.parameters()]
        step(model.train(), optimizer, self.x, self.y)
        step(masked.train(), other, self.x, self.y)
        mask(masked, other, removed)
        moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
        expected = dict(masked.named_parameters())
        errors = [
            largest(p, remaining(expected[name], name, removed)) for name, p in model.named_parameters()
        ]
        return Result(
            tool=tool,
            trained=sum(moved),
            parameters=len(moved),
            state_kept=kept,
            output_error=output_error,
            step_error=max(errors),
            size_fraction=sum(map(Tensor.numel, before)) / sum(p.numel() for p in self.model.parameters()),
            seconds=seconds,
            speedup=speedup(self.model, model, repeats),
        )


def by_esper(model: nn.Module, optimizer: SGD, x: Tensor) -> Axes:
    anatomy = inspect(model, x)
    keep = smallest_half(model, anatomy)
    cut(model, anatomy, keep, Inputs((x,)), (optimizer,))
    return dict(masked_axes(anatomy, keep))


def smallest_half(model: nn.Module, anatomy: Anatomy) -> BoolArray:
    """A mask that removes the half of every group whose producing weights are smallest."""
    parameters = dict(model.named_parameters())
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    for number, group in enumerate(anatomy.groups):
        size = np.zeros(group.width)
        for member in group.members:
            if member.role == "producer":
                others = [a for a in range(parameters[member.tensor].dim()) if a != member.axis]
                energy = parameters[member.tensor].detach().square().sum(others).numpy()
                size += energy[member.index].sum(1)
        keep[anatomy.offsets[number] + np.argsort(size)[: group.width // 2]] = False
    return keep


def by_torch_pruning(model: nn.Module, optimizer: SGD, x: Tensor) -> Axes:
    del optimizer  # it cannot be told
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning as tp

        pruner = tp.pruner.MagnitudePruner(
            model,
            x,
            importance=tp.importance.MagnitudeImportance(),
            pruning_ratio=0.5,
            ignored_layers=[model.head],
        )
        names = {module: name for name, module in model.named_modules()}
        removed: Axes = {}
        for group in pruner.step(interactive=True):
            for dependency, indices in group:
                layer, function = dependency.target.module, dependency.handler.__name__
                axis = 1 if function.startswith("prune_in") and not isinstance(layer, nn.BatchNorm2d) else 0
                for own, parameter in layer.named_parameters():
                    if axis < parameter.dim():
                        removed[f"{names[layer]}.{own}", axis] = np.unique(indices)
            group.prune()
    return removed


def mask(model: nn.Module, optimizer: SGD, removed: Axes) -> None:
    """Zeroes what was removed, in the parameters and in their momentum."""
    parameters = dict(model.named_parameters())
    momenta = {
        n: optimizer.state[p]["momentum_buffer"] for n, p in parameters.items() if p in optimizer.state
    }
    zero_masked(parameters, removed)
    zero_masked(momenta, removed)


def remaining(whole: Tensor, name: str, removed: Axes) -> Tensor:
    for axis in range(whole.dim()):
        if (name, axis) in removed:
            stays = np.setdiff1d(np.arange(whole.shape[axis]), removed[name, axis])
            whole = whole.index_select(axis, torch.from_numpy(stays))
    return whole


def step(model: nn.Module, optimizer: SGD, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


def largest(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs).abs().max().detach()) / max(float(theirs.abs().max().detach()), 1e-12)


def speedup(whole: nn.Module, small: nn.Module, repeats: int) -> float:
    """Ratio of the median forward times at batch 16 in float32, taken in turns."""
    whole, small = copy.deepcopy((whole, small))
    x = torch.randn(16, 3, 32, 32)
    seconds: dict[nn.Module, list[float]] = {whole.float().eval(): [], small.float().eval(): []}
    with torch.no_grad():
        for _ in range(repeats):
            for model, found in seconds.items():
                begin = time.perf_counter()
                model(x)
                found.append(time.perf_counter() - begin)
    return statistics.median(seconds[whole]) / statistics.median(seconds[small])


def print_table(results: list[Result]) -> None:
    rows: list[tuple[str, str, Callable[[Result], str]]] = [
        ("parameters that a step still moves", "all", lambda r: f"{r.trained} of {r.parameters}"),
        ("parameters that keep optimizer state", "all", lambda r: f"{r.state_kept} of {r.parameters}"),
        ("output of cut against masked network", "<= 1e-12", lambda r: f"{r.output_error:.1e}"),
        ("one step of cut against masked network", "<= 1e-6", lambda r: f"{r.step_error:.1e}"),
        ("parameters left", "", lambda r: f"{r.size_fraction:.1%}"),
        ("forward speed-up, one thread", ">= 1.5x", lambda r: f"{r.speedup:.2f}x"),
        ("seconds for the cut (with proof: esper)", "", lambda r: f"{r.seconds:.1f}"),
    ]
    head = ["figure", "target", *(result.tool for result in results)]
    table = [head, *([name, target, *map(show, results)] for name, target, show in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main()
