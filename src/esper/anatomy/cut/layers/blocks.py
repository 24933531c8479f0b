"""Residual blocks: the f of `x + f(x)`, which a network computes as well without. Found in its graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from esper.anatomy.graph import (
    Loss,
    Traced,
    bare,
    changed_inputs,
    chosen_rows,
    concrete,
    is_in_place,
    lowered,
    operator_name,
    traced_as,
    undisturbed,
)
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed
from esper.anatomy.units import anatomy_of
from esper.batches import split_sample
from esper.errors import UnknownPathError, UntraceableError


@dataclass(frozen=True)
class Block:
    """One residual block, the f of `x + f(x)`: everything that only this sum needs.

    Attributes:
        name: the module that computes it; numbered where one module computes several.
        modules: modules that compute nothing else, in the order in which they end.
        tensors: parameters and buffers that nothing else reads.
        parameters: how many numbers those parameters hold.
        flops: of one forward pass for one sample.
    """

    name: str
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    parameters: int
    flops: float = 0.0


@dataclass(frozen=True, eq=False)
class Sum:
    """Where a graph adds a block to its stream: `stream` is x, `added` is f(x), `node` their sum."""

    block: Block
    node: fx.Node
    stream: fx.Node
    added: fx.Node


def residual_blocks(model: nn.Module, sample: Any, loss: Loss | None = None) -> tuple[Block, ...]:
    """Finds what a network adds to a stream and could leave out, in the order of its graph.

    Args:
        model: the network; it is left untouched.
        sample: one batch: the input, or `(input, target)` when `loss` is given.
        loss: `loss(output, target)`; only to tell that the sample holds a target.

    Raises:
        UntraceableError: `torch.export` cannot follow the network.
    """
    args, kwargs, _ = split_sample(sample, with_target=loss is not None, model=bare(model))
    traced = traced_for(bare(model), args, kwargs)
    return blocks_of(traced, anatomy_of(traced, model))


def traced_for(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
    """The graph in which blocks are found and left out: of the network alone, all its outputs in use.

    Nothing in it writes into memory that others may read.

    Raises:
        UntraceableError: the network cannot be exported, writes into its inputs, or fails on them.
    """
    program = deployed(model, args, kwargs)
    for name, line in changed_inputs(program).items():
        raise UntraceableError(
            f"{type(model).__name__} writes into its input {name} ({line}), so what it computes without a "
            "part cannot be compared. Nothing was changed. Begin with `x = x.clone()`."
        )
    program = lowered(program, with_writes=True)
    written = (operator_name(node.target) for node in program.graph.nodes if is_in_place(node.target))
    if any(name != "detach" for name in written):  # which writes no value
        raise UntraceableError(
            f"{type(model).__name__} writes into its buffers, so what it computes without a part cannot be "
            "compared. Nothing was changed. Keep what it writes in a new tensor."
        )
    own = (node.meta.get("val") for node in program.graph.nodes if node.name in _inputs(program))
    sizes = [value.shape[0] for value in own if isinstance(value, Tensor) and value.dim()]
    traced = traced_as(program, model, int(concrete(sizes[0], {})) if sizes else 1)
    with undisturbed(model):
        inputs = (args, dict(kwargs), None)
        counts = chosen_rows(program, model, inputs, takes_any=traced.is_batch_dynamic)
    return replace(traced, counts=counts)


def _inputs(program: ExportedProgram) -> set[str]:
    return set(program.graph_signature.user_inputs)


def blocks_of(traced: Traced, anatomy: Anatomy) -> tuple[Block, ...]:
    """The blocks of a network that is already traced.

    Args:
        traced: the traced network.
        anatomy: its anatomy, which knows what operators cost.
    """
    found, costs = sums(traced), _costs(anatomy)
    return tuple(replace(one.block, flops=_flops([one], costs)) for one in found)


def _costs(anatomy: Anatomy) -> Mapping[str, float]:
    """FLOPs by node."""
    costs: defaultdict[str, float] = defaultdict(float)
    for term in anatomy.terms:
        # At full width: every factor with all of its coordinates.
        costs[term.node] += term.multiplier * prod(factor.size for factor in term.factors)
    return costs


def _flops(dropped: Sequence[Sum], costs: Mapping[str, float]) -> float:
    """What goes with these blocks together."""
    return sum(costs.get(node.name, 0.0) for node in unread(dropped[0].node.graph, dropped))


def sums(traced: Traced) -> tuple[Sum, ...]:
    """Every sum of a stream and a block in a traced network."""
    graph, names = traced.program.graph, traced.names
    owned = traced.program.graph_signature.inputs_to_parameters
    sizes = {
        names[node.name]: int(node.meta["val"].numel())
        for node in graph.nodes
        if node.name in owned and node.name in names
    }
    residuals = []
    for node in graph.nodes:
        for stream, added in _split(node):
            candidate = Sum(Block("", (), (), 0), node, stream, added)
            # What would not be read without it says whose parameters a block holds.
            dead = unread(graph, [candidate])
            held = tuple(names[n.name] for n in dead if n.name in names)
            count = sum(sizes.get(name, 0) for name in held)
            if count:
                residuals.append(replace(candidate, block=Block("", own_modules(graph, dead), held, count)))
    blocks = _named([one.block for one in residuals], sizes)
    return tuple(replace(one, block=block) for one, block in zip(residuals, blocks, strict=True))


def named(found: Sequence[Sum], names: Sequence[str]) -> list[Sum]:
    """The sums of these blocks, in the order of the graph.

    Args:
        found: all sums.
        names: names of blocks, of modules that hold blocks (all of them), or of a weight in a block, without
            its `.weight`: the innermost block that holds it.

    Raises:
        UnknownPathError: there is no block of that name.
    """
    chosen: set[str] = set()
    for name in names:
        own = {one.block.name for one in found if one.block.name == name}
        own = own or {one.block.name for one in found if one.block.name.startswith(f"{name}.")}
        own = own or _innermost(found, name)
        if not own:
            known = ", ".join(one.block.name for one in found) or "none"
            raise UnknownPathError(f"No residual block named {name!r}. Blocks of this network: {known}.")
        chosen |= own
    return [one for one in found if one.block.name in chosen]


def _innermost(found: Sequence[Sum], name: str) -> set[str]:
    around = [one.block for one in found if {name, f"{name}.weight"} & {*one.block.tensors}]
    return {min(around, key=lambda block: len(block.tensors)).name} if around else set()


def _split(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """A sum as what goes on unchanged without the other operand, and that operand, which is made of it."""
    if node.op != "call_function" or operator_name(node.target) != "add" or node.kwargs.get("alpha", 1) != 1:
        return
    operands = [operand for operand in node.args if isinstance(operand, fx.Node)]
    if len(operands) != 2:
        return
    for stream, added in (operands, reversed(operands)):
        # Only the sum reads f(x), x looks like the sum, and f(x) is made of x.
        is_alone = stream is not added and _readers(added) == [node]
        if is_alone and _kind(stream) == _kind(node) and _is_made_of(added, stream):
            yield stream, added


def _kind(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return (tuple(map(str, value.shape)), value.dtype) if isinstance(value, Tensor) else node


def _readers(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if not _is_assertion(user)]


def _is_assertion(node: fx.Node) -> bool:
    return "_assert" in str(node.target)


def _is_idle(node: fx.Node) -> bool:
    """A conversion to the type that its input has: the exporter takes its result for the input itself."""
    given = node.args[0] if node.args else None
    return operator_name(node.target) == "to" and isinstance(given, fx.Node) and _kind(given) == _kind(node)


def _is_made_of(node: fx.Node, source: fx.Node) -> bool:
    # Backwards through all that the node is made of.
    seen, open_nodes = {node}, [node]
    while open_nodes:
        for given in open_nodes.pop().all_input_nodes:
            if given is source:
                return True
            if given not in seen:
                seen.add(given)
                open_nodes.append(given)
    return False


def unread(graph: fx.Graph, dropped: Sequence[Sum]) -> list[fx.Node]:
    """Nodes that nothing reads any more once these sums give their stream, in the order of the graph."""
    given_up = {one.node: one for one in dropped}
    dead: dict[fx.Node, None] = {}
    # Readers come after what they read, so one pass from the end is enough.
    for node in reversed(graph.nodes):
        readers = _readers(node)
        if readers and all(
            reader in dead or (reader in given_up and node is not given_up[reader].stream)
            for reader in readers
        ):
            dead[node] = None
    return list(reversed(dead))


def own_modules(graph: fx.Graph, dead: Sequence[fx.Node]) -> tuple[str, ...]:
    """The outermost modules that compute nothing but these nodes, in the order in which they end."""
    everywhere = Counter(path for node in graph.nodes for path in paths_of(node))
    here: dict[str, int] = {}
    for node in dead:
        for path in paths_of(node):
            here[path] = here.pop(path, 0) + 1  # last: the order in which they end
    # A module goes with a block if all that was recorded in its calls does.
    whole = {path for path, count in here.items() if path and count == everywhere[path]}
    return tuple(path for path in here if path in whole and not any(part in whole for part in _above(path)))


def paths_of(node: fx.Node) -> list[str]:
    """The network's own paths of the modules in whose calls a node was recorded."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path).partition("@")[0] for path, _ in stack.values()]
    own = {path.removeprefix("model.") for path in paths if path.startswith("model.")}
    return (
        sorted(own) if node.op == "call_function" and not _is_assertion(node) and not _is_idle(node) else []
    )


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _named(blocks: Sequence[Block], sizes: Mapping[str, int]) -> list[Block]:
    """Gives every block a name of its own: the module that is nothing else, or its largest, with a number."""
    counts: Counter[str] = Counter()
    result = []
    for block in blocks:
        around = _common([name.rpartition(".")[0] for name in block.tensors])
        is_all = around and all(n in block.tensors for n in sizes if n.startswith(f"{around}."))
        name = around if is_all else _largest(block, sizes)
        counts[name] += 1
        result.append(replace(block, name=name if counts[name] == 1 else f"{name}:{counts[name]}"))
    return result


def _common(paths: Sequence[str]) -> str:
    parts = [path.split(".") for path in paths]
    shared = 0
    while all(len(part) > shared and part[shared] == parts[0][shared] for part in parts):
        shared += 1
        if shared == min(map(len, parts)):
            break
    return ".".join(parts[0][:shared])


def _largest(block: Block, sizes: Mapping[str, int]) -> str:
    def size(path: str) -> int:
        return sum(sizes.get(name, 0) for name in block.tensors if name.startswith(f"{path}."))

    inside = (name.rpartition(".")[0] or name for name in block.tensors)
    return max(dict.fromkeys((*block.modules, *inside)), key=size)
