"""What tests of the anatomy share: inspected networks of the zoo, masks, one training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils import _pytree as pytree

from esper.anatomy.cut import Cut, cut, cut_program
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.batches import splits
from tests.anatomy.networks import ZOO

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda parameters: Adam(parameters, lr=1e-3),
    "adamw": lambda parameters: AdamW(parameters, lr=1e-3),
}


@cache
def anatomy_of(name: str) -> Anatomy:
    """The anatomy of a network of the zoo."""
    return inspect(ZOO[name].network(), ZOO[name].input())


def half(anatomy: Anatomy, seed: int = 0) -> BoolArray:
    """A mask that removes a random half of the units of every group."""
    rng = np.random.default_rng(seed)
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    for number, group in enumerate(anatomy.groups):
        keep[anatomy.offsets[number] + rng.choice(group.width, group.width // 2, replace=False)] = False
    return keep


def without(model: nn.Module, blocks: Sequence[str], inputs: Inputs, *more: Any, **named: Any) -> Cut:
    """Cuts residual layers, and nothing else, out of a network; optimizers and companions follow."""
    anatomy = inspect(model, _sample(inputs))
    return cut(model, anatomy, np.ones(anatomy.num_units, np.bool_), inputs, *more, blocks=blocks, **named)


def program_without(model: nn.Module, blocks: Sequence[str], inputs: Inputs) -> ExportedProgram:
    """The program of a network without residual layers."""
    anatomy = inspect(model, _sample(inputs))
    return cut_program(model, anatomy, np.ones(anatomy.num_units, np.bool_), inputs, blocks=blocks).program


def _sample(inputs: Inputs) -> Any:
    if not inputs.args:
        return dict(inputs.kwargs)
    return inputs.args if len(inputs.args) > 1 else inputs.args[0]


def probe_of(sample: Any) -> Inputs:
    args, kwargs, _ = next(splits(sample, with_target=False))
    return Inputs(args, kwargs)


def to_double(sample: Any) -> Any:
    return pytree.tree_map(
        lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf, sample
    )


def loss_of(model: nn.Module, sample: Any) -> Tensor:
    """A loss that every output has a part in."""
    probe = probe_of(sample)
    output = model(*probe.args, **probe.kwargs)
    leaves = [
        leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    total = torch.zeros((), dtype=leaves[0].dtype)
    for number, leaf in enumerate(leaves):
        weights = torch.linspace(-1.0, 1.5 + number, leaf.numel(), dtype=leaf.dtype).reshape(leaf.shape)
        total = total + (leaf * weights).mean() + leaf.square().mean()
    return total


def train_step(model: nn.Module, optimizer: Optimizer, sample: Any) -> float:
    optimizer.zero_grad()
    loss = loss_of(model, sample)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def without_dropout(model: nn.Module) -> nn.Module:
    """Batch statistics as in training, but no dropout: networks of different width draw differently."""
    model.eval()
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.train()
    return model


def masked_copy(
    model: nn.Module, optimizer: Optimizer, anatomy: Anatomy, keep: BoolArray
) -> tuple[nn.Module, Optimizer, Callable[[], None]]:
    """A masked copy of network and optimizer, and what zeroes parameters, gradients and moments again."""
    twin, other = copy.deepcopy((model, optimizer))
    axes = masked_axes(anatomy, keep)
    parameters = dict(twin.named_parameters())

    def mask() -> None:
        zero_masked(parameters, axes)
        for key in {key for state in other.state.values() for key in state}:
            moments = {
                name: other.state[p][key] for name, p in parameters.items() if key in other.state.get(p, {})
            }
            whole = {
                name: m for name, m in moments.items() if m is not None and m.shape == parameters[name].shape
            }
            zero_masked(whole, axes)

    mask()
    return twin, other, mask
