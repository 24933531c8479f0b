"""Exported programs as modules with other tensors, and traced anew."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from esper.anatomy.graph import parts_of
from esper.anatomy.proof import Inputs, deep_copy
from esper.anatomy.twin import deployed
from esper.errors import NotEquivalentError

State = Mapping[str, Tensor]
"""Parameters, buffers and constants by a program's own names."""


def state_of(program: ExportedProgram) -> dict[str, Tensor]:
    """What a program holds."""
    held = {**program.constants, **program.state_dict}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def module_of(program: ExportedProgram, state: State) -> fx.GraphModule:
    """The program as a module that computes with these tensors."""
    parameters: dict[int, nn.Parameter] = {}
    for name, value in state.items():
        if name in program.constants:
            program.constants[name] = value
        elif isinstance(program.state_dict[name], nn.Parameter):
            # Tied parameters stay one.
            parameter = parameters.setdefault(id(value), nn.Parameter(value, requires_grad=False))
            program.state_dict[name] = parameter
        else:
            program.state_dict[name] = value
    for part in parts_of(program):
        part.graph.lint()
        part.recompile()
    return deep_copy(program.module(check_guards=False))


def traced_again(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Traced anew, so that every shape in the program is checked and none is left over."""
    try:
        unwrapped = isinstance(module, fx.GraphModule)
        return deployed(module, inputs.args, inputs.kwargs, unwrapped=unwrapped)
    except Exception as error:
        raise NotEquivalentError(
            f"The network's program does not run at the new sizes: {str(error).splitlines()[0]} Nothing was "
            "changed. Leave the units whole that this operator moves."
        ) from error
