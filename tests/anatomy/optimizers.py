"""Optimizers whose state a cut must carry along, and two whose state nobody can cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Rprop,
)

Parameters = Iterable[nn.Parameter]


class Lion(Optimizer):
    """The sign of a momentum (Chen et al. 2023); its state is `exp_avg` of the parameter's shape."""

    def __init__(self, parameters: Parameters, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_((0.9 * momentum + 0.1 * parameter.grad).sign_(), alpha=group["lr"])
                momentum.lerp_(parameter.grad, 0.01)


class RowMaximum(Optimizer):
    """Keeps, by axis, the largest squared gradient (Anil et al. 2019, SM3), in one vector for each."""

    def __init__(self, parameters: Parameters, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                squares, rank = parameter.grad.square(), parameter.dim()
                total = torch.full_like(parameter, float("inf"))
                for axis in range(rank):
                    others = [other for other in range(rank) if other != axis]
                    largest = squares.amax(others) if others else squares
                    kept = state.get(f"largest_{axis}", torch.zeros_like(largest))
                    state[f"largest_{axis}"] = torch.maximum(kept, largest)
                    view = [-1 if other == axis else 1 for other in range(rank)]
                    total = torch.minimum(total, state[f"largest_{axis}"].view(view))
                parameter.sub_(parameter.grad / (total.sqrt() + 1e-8), alpha=group["lr"])


class Blockwise(Optimizer):
    """Momentum in 8 bits with one scale for every block of 64 values, laid out as bitsandbytes does."""

    def __init__(self, parameters: Parameters, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                blocks = nn.functional.pad(parameter.grad.flatten(), (0, -parameter.numel() % 64)).view(
                    -1, 64
                )
                scale = blocks.abs().amax(1).clamp_min(1e-12)
                quantized = (blocks / scale[:, None] * 127 + 128).to(torch.uint8)
                self.state[parameter]["state1"] = quantized.flatten()[: parameter.numel()].view_as(parameter)
                self.state[parameter]["absmax1"] = scale
                parameter.sub_(parameter.grad, alpha=group["lr"])


class Preconditioned(Optimizer):
    """A square matrix for every axis (Gupta et al. 2018, Shampoo), without the root."""

    def __init__(self, parameters: Parameters, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                for axis in range(parameter.dim()):
                    rows = parameter.grad.movedim(axis, 0).reshape(parameter.shape[axis], -1)
                    self.state[parameter][f"outer_{axis}"] = rows @ rows.T
                parameter.sub_(parameter.grad, alpha=group["lr"])


EXACT: dict[str, Callable[[Parameters], Optimizer]] = {
    "SGD": lambda p: SGD(p, 0.05),
    "SGD momentum": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "Adam": lambda p: Adam(p, 1e-3),
    "Adam amsgrad": lambda p: Adam(p, 1e-3, amsgrad=True, weight_decay=1e-3),
    "AdamW": lambda p: AdamW(p, 1e-3),
    "NAdam": lambda p: NAdam(p, 1e-3),
    "RAdam": lambda p: RAdam(p, 1e-3),
    "Adamax": lambda p: Adamax(p, 1e-3),
    "RMSprop": lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "Adagrad": lambda p: Adagrad(p, 1e-2),
    "Adadelta": lambda p: Adadelta(p, 0.1),
    "ASGD": lambda p: ASGD(p, 1e-2),
    "Rprop": lambda p: Rprop(p, 1e-3),
    "Lion": lambda p: Lion(p, 1e-3, weight_decay=1e-2),
    "row maximum": lambda p: RowMaximum(p, 1e-3),
    # a fixed step size and no clipping: what is left of Adafactor is its factored variance
    "Adafactor factors": lambda p: Adafactor(p, 1e-5, eps=(None, 100.0), d=1e9, weight_decay=1e-3),
}
"""After a cut their next step is that of the masked network."""


def squares_only() -> nn.Module:
    """No axis can be told from another by its size."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
    ).double()


def states(optimizer: Optimizer) -> list[dict[str, Any]]:
    """A copy of all state."""
    return [
        {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}
        for state in optimizer.state.values()
    ]


class KeepsWeights(Optimizer):
    """Momentum that writes parameters from weights in its state, and keeps those of the start and slow ones.

    As optimizers for mixed precision (`master`), Lookahead (`slow`) and Prodigy (`start`) do.
    """

    def __init__(self, parameters: Any, lr: float = 0.05, weight_decay: float = 0.01) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state.update({key: parameter.detach().double() for key in ("master", "slow", "start")})
                    state["momentum"] = torch.zeros_like(parameter)
                if parameter.grad is None:
                    continue
                state["momentum"].mul_(0.9).add_(parameter.grad).add_(parameter, alpha=group["weight_decay"])
                state["master"] = state["master"] - group["lr"] * state["momentum"]
                state["slow"].lerp_(state["master"], 0.1)
                parameter.copy_(state["master"])
