"""What a seed computes in the network: one formula with three scalars that are buffers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from esper.checkpoint import drawn_apart

_STEEPNESS = 6.0
"""Of the sigmoid at both of its ends, in standard units."""


class Graft(torch.autograd.Function):
    """Passes the host's tensor on, and its gradient to host and seed: the values never touch."""

    @staticmethod
    def forward(ctx: Any, host: Tensor, seed: Tensor) -> Tensor:  # noqa: ARG004 (the signature is torch's)
        return host.view_as(host)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
        return gradients[0], gradients[0]


class KasminaLayer(nn.Module):
    """A host module and the seed that is grafted onto it, in one place of the network.

    With h the output of the host module and f the seed, whose input x is cut off from h or joined to it:

        y = graft(h, beta * f(x)) + alpha * f(x),    x = sg(h) + gamma * (h - sg(h))

    `sg` lets values through and no gradient; h itself always keeps its own. A seed that fails, or makes
    something that is no number, is left out of that pass, and counted: then y is h.

    A seed that is not a part of the network yet stands in no list of it: modules, parameters, buffers and
    `state_dict` are the host's, under the names that they have without it. Seed and scalars are saved by the
    slot. Once it is joined, modules and parameters list the seed too, and `state_dict` still does not.

    Args:
        host: the module whose output the seed adds to. The first of several outputs counts.
        seed: f; keeps the shape.
        device: where the scalars are.

    Attributes:
        alpha: share of the seed in the output, 0 to 1.
        beta: share of the gradient at the output that a seed gets which adds nothing (straight-through).
        gamma: share of the gradient at its input that it lets through, 0 to 1.
        faults: passes in which it was left out.
        problem: how the seed failed last, in words; '' if it did not.
        number: what its randomness is drawn from while it must not draw from the host's; None: it may.
        is_hidden: it is left out while the network is in training mode.
        is_paused: it is left out everywhere.
        is_joined: its input is joined to h, so that gamma counts.
    """

    alpha: Tensor
    beta: Tensor
    gamma: Tensor
    faults: Tensor

    def __init__(self, host: nn.Module, seed: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.host, self.seed = host, seed
        for name in ("alpha", "beta", "gamma"):
            self.register_buffer(name, torch.zeros((), device=device))
        self.register_buffer("faults", torch.zeros((), dtype=torch.int64, device=device))
        self.number: int | None = None
        self.problem = ""
        self.is_hidden = self.is_paused = self.is_joined = False
        self.register_load_state_dict_pre_hook(_fit_names)  # type: ignore[no-untyped-call]  # torch's
        self.follow()

    def __getattr__(self, name: str) -> Any:
        """What this place is asked for, and has not itself, is the host's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("host"), name)

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        memo = set() if memo is None else memo
        yield from self.host.named_modules(memo, prefix, remove_duplicate)
        if self.is_joined:
            yield from self.seed.named_modules(memo, f"{prefix}.seed" if prefix else "seed", remove_duplicate)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.host.state_dict(*args, **kwargs)

    def follow(self) -> None:
        """Takes on the mode that the host is in."""
        self.training = self.host.training
        self.seed.train(self.host.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.host(*args, **kwargs)
        if self.is_paused or (self.is_hidden and self.training):
            return output
        h = primary(output)
        x = h.detach()
        if self.is_joined:  # a gate that is closed would still be a way for inf * 0
            x = x + self.gamma * (h - x)
        if (f := self._made_of(x)) is None:
            return output
        is_sound = f.isfinite().all()
        self.faults.add_(~is_sound & h.isfinite().all())  # of what is no number nobody can make one
        f = torch.where(is_sound, f, torch.zeros_like(f))
        if self.number is not None:
            h = Graft.apply(h, self.beta * f)  # type: ignore[no-untyped-call]  # torch's
        return replaced(output, h + self.alpha * f)

    def _made_of(self, x: Tensor) -> Tensor | None:
        """What the seed makes; None where it fails, which is counted. What is joined is the host's affair."""
        try:
            if self.number is None:
                f = self.seed(x)
            else:
                with drawn_apart(self.number):
                    f = self.seed(x)
        except Exception as error:  # a user's code; its failure is an answer
            if self.is_joined:
                raise
            self.problem = f"{type(error).__name__}: {error}"
        else:
            made = list(f.shape) if isinstance(f, Tensor) else type(f).__name__
            if made == list(x.shape):
                answer: Tensor = f
                return answer
            self.problem = f"of {list(x.shape)} it made {made}"
        self.faults.add_(1)
        return None


def _fit_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Values for a host are on their way into its place: they reach it, and what is the seed's stays."""
    for name in [name for name in state if name.startswith(prefix)]:
        state[f"{prefix}host.{name.removeprefix(prefix)}"] = state.pop(name)
    own: Mapping[str, Any] = nn.Module.state_dict(module, prefix=prefix)
    state.update({name: value for name, value in own.items() if not name.startswith(f"{prefix}host.")})


class _AroundHost(nn.Module):
    """Stands in the place of a host module, and has its attributes."""

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        self.host = host
        self.training = host.training

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("host"), name)


class Grown(_AroundHost):
    """A host module with a seed that has become a part of it: y = h + f(h)."""

    def __init__(self, host: nn.Module, seed: nn.Module) -> None:
        super().__init__(host)
        self.seed = seed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.host(*args, **kwargs)
        h = primary(output)
        return replaced(output, h + self.seed(h))


class Counted(_AroundHost):
    """A host module that counts its calls: as a seed stands around it, and not as a hook hangs on it.

    Attributes:
        host: the module.
        calls: so far.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__(host)
        self.calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.host(*args, **kwargs)


def primary(output: Any) -> Tensor:
    """The tensor that a seed adds to: the output of a module, or the first of several.

    Raises:
        TypeError: there is none.
    """
    first = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise TypeError(f"its output is {type(first).__name__}, and a seed needs a tensor of floats")
    return first


def replaced(output: Any, first: Tensor) -> Any:
    """The same output with another first tensor."""
    if isinstance(output, Tensor):
        return first
    rest = (first, *output[1:])
    return type(output)(*rest) if hasattr(output, "_fields") else type(output)(rest)


def ramp(share: float, shape: Literal["cosine", "sigmoid"]) -> float:
    """How far a scalar is on its way from 0 to 1 after this share of the steps; exact at both ends."""
    if share <= 0.0 or share >= 1.0:
        return float(share > 0.0)
    if shape == "cosine":
        return (1.0 - math.cos(math.pi * share)) / 2.0
    low = 1.0 / (1.0 + math.exp(_STEEPNESS))
    value = 1.0 / (1.0 + math.exp(-_STEEPNESS * (2.0 * share - 1.0)))
    return (value - low) / (1.0 - 2.0 * low)
