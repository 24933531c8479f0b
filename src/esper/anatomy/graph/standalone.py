"""A program as a module for people: called like the network that it is of."""

from __future__ import annotations

import warnings
from types import MethodType

from torch import fx, nn
from torch.export import ExportedProgram


def standalone(program: ExportedProgram) -> fx.GraphModule:
    """The program as a module. It computes as in eval mode for good, so that `eval()` changes nothing."""
    module: fx.GraphModule = program.module()
    for part in module.modules():
        part.training = False
    for method in (_train, _eval):
        vars(module)[method.__name__.lstrip("_")] = MethodType(method, module)
    return module


def _eval(module: nn.Module) -> nn.Module:
    return module


def _train(module: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        warnings.warn(
            "This network is a stored program, which computes as in eval mode for good. To train it, put it "
            "into a fresh instance of its class: `esper.load(path, model=fresh)`.",
            stacklevel=2,
        )
    return module
