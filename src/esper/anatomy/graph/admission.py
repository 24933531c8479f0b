"""What is no network, and networks that nobody can look into: refused before tracing, with a way out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from esper.errors import ConfigError, SurgeryError, UntraceableError

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def check_given(model: Any, loss: Any = None) -> None:
    """Makes sure that a network was given, and a loss that is made already, if there is one.

    Raises:
        ConfigError: one of them is a class, or the network is no `nn.Module`.
    """
    check_made("model", model, "...")
    check_made("loss", loss)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"`model` is a thing of the type {type(model).__name__}, and a network is a torch.nn.Module. "
            "Nothing was changed."
        )


def check_made(role: str, given: Any, arguments: str = "") -> None:
    """Makes sure that something is no class.

    Args:
        role: what it was given as.
        given: it.
        arguments: what one is made of.

    Raises:
        ConfigError: it is one.
    """
    if isinstance(given, type):
        raise ConfigError(
            f"`{role}` is the class {given.__name__}, and what is made of it is wanted: "
            f"`{given.__name__}({arguments})`. Nothing was changed."
        )


def check_tensors(model: nn.Module) -> None:
    """Makes sure that every parameter and buffer is a plain dense tensor.

    Raises:
        UntraceableError: one is uninitialized, sparse, quantized, flattened, scripted, or of a class with a
            layout of its own.
    """
    for path, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UntraceableError(
                f"{path or 'The network'} is a FullyShardedDataParallel, which flattens its parameters, so "
                "there are no axes to cut. Use torch.distributed.fsdp.fully_shard, or cut before wrapping."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise UntraceableError(
                f"{path or 'The network'} is a TorchScript module, whose code cannot be followed. Give the "
                "module that it was made from, and script the smaller network afterwards."
            )
        packed = [name for name, value in vars(module).items() if isinstance(value, torch.ScriptObject)]
        if packed or type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
            raise UntraceableError(
                f"{path or 'The network'} is a {type(module).__name__} with packed, quantized weights, which "
                "cannot be cut. Prune the network first and quantize it afterwards."
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        why = _why_not(tensor)
        if why:
            raise UntraceableError(f"{name} {why}")


def check_inputs(sample: Any) -> None:
    """Makes sure that a batch can be taken apart into its samples.

    Raises:
        ConfigError: it holds packed sequences or a sparse matrix.
    """
    leaves = pytree.tree_leaves(sample, is_leaf=lambda value: isinstance(value, PackedSequence))
    if any(isinstance(leaf, PackedSequence) for leaf in leaves):
        raise ConfigError(
            "The sample holds a packed sequence, of which no half can be taken. Let the loader give the "
            "padded batch and its lengths, and the network pack them: `pack_padded_sequence(x, lengths, "
            "enforce_sorted=False)`."
        )
    tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor))
    sparse = next((tensor for tensor in tensors if tensor.layout is not torch.strided), None)
    if sparse is not None:
        kind = str(sparse.layout).removeprefix("torch.")
        raise ConfigError(
            f"The sample holds a sparse matrix ({kind}, {tuple(sparse.shape)}), which is not followed. Give "
            "it as `.to_dense()` in `sample` and `probe`; or give its indices, and let the network sum over "
            "neighbors by `index_add`."
        )


def _why_not(tensor: Tensor) -> str:
    if is_lazy(tensor):
        return (
            "is not initialized yet (a lazy module). Run the network once, `model(x)`, before the optimizer "
            "is built and Esper is attached."
        )
    if tensor.is_quantized:
        return "is quantized. Prune the network first and quantize it afterwards."
    if tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
        return f"is a sparse tensor ({kind}), which the exporter cannot follow. Use `.to_dense()`."
    kind = type(tensor).__name__ if type(tensor) not in _PLAIN else type(tensor.data).__name__
    if kind == "DTensor":
        return (
            "is a DTensor that `fully_shard` did not make (tensor parallelism). Cut the network before it is "
            "parallelized; docs/how-to-many-gpus.md shows what can be followed."
        )
    if kind not in ("Tensor", "Parameter", "Buffer"):
        return f"is a {kind}, whose layout Esper does not know. Prune the network before it is converted."
    return ""


def check_values(model: nn.Module) -> None:
    """Makes sure that there are values to prove a cut with.

    Raises:
        SurgeryError: a tensor is on the meta device.
    """
    empty = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.device.type == "meta"]
    if empty:
        raise SurgeryError(
            f"{len(empty)} tensor(s) of the network are on the meta device and have no values ({empty[0]}), "
            "so a cut cannot be proven. Nothing was changed. Load it first, for example with "
            "`model.to_empty(device='cpu')` and `load_state_dict`; `inspect` works without values."
        )


def changed_inputs(program: ExportedProgram) -> dict[str, str]:
    """Inputs that the traced code writes into, and the line that does; empty for a well-behaved network."""
    source: dict[Node, str] = {
        node: node.name
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    }
    lines: dict[str, str] = {}
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None:
            continue
        for argument, value in zip(schema.arguments, node.args, strict=False):
            if not isinstance(value, Node) or value not in source or argument.alias_info is None:
                continue
            # A view of an input is that input: what is written to it, the user finds in the batch.
            source[node] = source[value]
            if argument.alias_info.is_write:
                lines.setdefault(source[value], _line(node))
    return lines


def _line(node: Node) -> str:
    """The network's own line that a node comes from."""
    frames = [line.strip() for line in str(node.meta.get("stack_trace", "")).splitlines()]
    own = [line for line in frames if line.startswith("File ") and not _is_ours(line)]
    return own[-1].removeprefix("File ").replace('"', "") if own else node.name


def _is_ours(frame: str) -> bool:
    return "/torch/" in frame or "esper/anatomy/graph/trace.py" in frame
