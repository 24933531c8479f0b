"""Parameters that a forward pass takes from somewhere else than its modules, as from a list that holds them.

The exporter looks for them in modules only. It takes the same memory for a constant where code has it from a
plain list or from an object of its own, as Keras keeps its variables, and a program would hold the values of
today. Here they are what they are.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


def name_held(program: ExportedProgram, module: nn.Module) -> None:
    """Lets a program take from its inputs what it holds as a constant and `module` as a parameter.

    Not so a buffer: where modules change its type or device they put another in its place, and what holds
    it elsewhere stays behind.

    Args:
        program: of this module.
        module: what was exported.
    """
    constants = [spec for spec in program.graph_signature.input_specs if _is_tensor(program, spec.target)]
    if not constants:
        return
    own = {_place(tensor): name for name, tensor in module.named_parameters() if tensor.numel()}
    inputs = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    taken = {
        spec.target: inputs[spec.arg.name]
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.PARAMETER and spec.target is not None
    }
    for spec in constants:
        name = own.get(_place(program.constants[str(spec.target)]))
        if name is None or name not in taken:
            continue
        inputs[spec.arg.name].replace_all_uses_with(taken[name])
        program.graph.erase_node(inputs[spec.arg.name])
        program.graph_signature.input_specs.remove(spec)
        del program.constants[str(spec.target)]
    program.graph_module.recompile()


def _is_tensor(program: ExportedProgram, target: str | None) -> bool:
    return isinstance(program.constants.get(target or ""), Tensor)


def _place(tensor: Tensor) -> tuple[object, ...]:
    """Two tensors with the same of it are one: memory, shape, order and type of its values."""
    return (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
