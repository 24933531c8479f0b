"""Looks at a network that leave everything as it was."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from esper.anatomy.graph.exporting import alone


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Runs a block with the network in eval mode and leaves mode, random state and buffers as they were.

    What is compiled runs as it is written meanwhile: nothing is compiled for a look. What accelerate has put
    around a forward pass for mixed precision is off: a look is about the network in its own precision, as in
    a loop that has `autocast` around its steps. Networks may keep what
    they once computed in eval mode (position biases) until they train again: `train()` makes them forget it.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    kept = {module: _loose_tensors(module) for module in model.modules()}
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with (
        alone(),
        torch.random.fork_rng(devices=devices),
        same_draws(),
        torch.compiler.set_stance("force_eager"),
        _own_precision(model),
    ):
        try:
            _forget(model)
            yield
        finally:
            _forget(model)
            back_in_mode(modes)
            for module, before in kept.items():
                _put_back(module, before)
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in buffers and buffers[name].shape == buffer.shape:
                        buffer.copy_(buffers[name])


def _forget(model: nn.Module) -> None:
    """Lets modules forget what they keep until they train again, and leaves them in eval mode."""
    with _no_word_of_modes():
        model.train()
        model.eval()


@contextmanager
def _no_word_of_modes() -> Iterator[None]:
    """Stored programs, which are in eval mode for good, warn of being put into another one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def back_in_mode(modes: Mapping[nn.Module, bool]) -> None:
    """Puts modules back into training or eval mode, those around others first.

    By their own `train`, which may do more than set a flag: LoRA layers merge their weights for eval mode.
    """
    with _no_word_of_modes():
        for module, training in modes.items():
            if module.training is not training:
                module.train(training)
            module.training = training  # also where a `train` of its own keeps to eval mode


@contextmanager
def same_draws() -> Iterator[None]:
    """Leaves the random states of Python and NumPy as they were: what one block draws, the next one does."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what a user's code draws from)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _own_precision(model: nn.Module) -> Iterator[None]:
    """Takes off what `Accelerator.prepare` puts around `forward`, for a block; it keeps the one before."""
    around = {
        module: vars(module)["forward"]
        for module in model.modules()
        if {"forward", "_original_forward"} <= vars(module).keys()
    }
    for module in around:
        vars(module)["forward"] = vars(module)["_original_forward"]
    try:
        yield
    finally:
        for module, forward in around.items():
            vars(module)["forward"] = forward


def _loose_tensors(module: nn.Module) -> dict[str, Tensor | None]:
    """What a module keeps in plain attributes: a state of its last call, or None before the first."""
    return {name: v for name, v in vars(module).items() if v is None or isinstance(v, Tensor)}


def _put_back(module: nn.Module, kept: Mapping[str, Tensor | None]) -> None:
    for name in _loose_tensors(module).keys() - kept.keys():
        delattr(module, name)
    for name, value in kept.items():
        if vars(module).get(name, value) is not value:
            setattr(module, name, value)
