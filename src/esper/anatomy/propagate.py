"""Label propagation: runs the exported graph on labels instead of numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from esper.anatomy.labels import Flow, LabelSpace
from esper.anatomy.rules import RULES, Call, Notes
from esper.anatomy.trace import Traced

_HOLDS_A_GRAPH = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "hints_wrapper", "checkpoint", "invoke_subgraph")


@dataclass
class Propagation:
    """The facts about labels, the labels of every tensor axis, and what was noted on the way."""

    space: LabelSpace
    axes: dict[str, list[Tensor]]
    parameters: set[str]
    notes: Notes
    modules: dict[str, str] = field(default_factory=dict)


def propagate(traced: Traced) -> Propagation:
    """Interprets the exported graph of `traced` on labels."""
    run = _Run(traced)
    run.graph(traced.program.graph, {})
    return Propagation(run.space, run.axes, run.parameters, run.notes, run.modules)


class _Run:
    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.space = LabelSpace()
        self.notes = Notes()
        self.axes: dict[str, list[Tensor]] = {}
        self.parameters: set[str] = set()
        self.modules: dict[str, str] = {}
        self._by_storage: dict[tuple[int, tuple[int, ...]], str] = {}

    def graph(self, graph: fx.Graph, inputs: Mapping[str, Any]) -> Any:
        """Runs one graph; `inputs` are the placeholders that are already known (bodies of higher-order operators)."""
        values: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = inputs[node.name] if node.name in inputs else self._placeholder(node)
            elif node.op == "get_attr":
                values[node] = self._attribute(node)
            elif node.op == "output":
                result = fx.node.map_arg(node.args[0], values.__getitem__)
                if not inputs:
                    self._freeze_output(result)
                return result
            else:
                values[node] = self._call(node, values)
        return None

    def _placeholder(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return _concrete(value)
        shape = tuple(_concrete(size) for size in value.shape)
        name = self.traced.names.get(node.name)
        if name is None:
            return Flow(shape)
        return self._parameter(node, name, shape)

    def _parameter(self, node: fx.Node, name: str, shape: tuple[int, ...]) -> Flow:
        kinds = {spec.arg.name: spec.kind for spec in self.traced.program.graph_signature.input_specs}
        is_parameter = kinds[node.name] is InputKind.PARAMETER
        original = self._tied_to(name, shape)
        if original not in self.axes:
            self.axes[original] = [
                self.space.fresh(size) if size > 1 else torch.zeros(size, dtype=torch.long) for size in shape
            ]
        if is_parameter:
            self.parameters.add(original)
        layers = []
        for axis, labels in enumerate(self.axes[original]):
            if labels.numel() > 1:
                layers.append(labels.reshape([-1 if n == axis else 1 for n in range(len(shape))]))
        return Flow(shape, tuple(layers), original if is_parameter else None)

    def _tied_to(self, name: str, shape: tuple[int, ...]) -> str:
        """The first name of a tensor that several names share."""
        states = self.traced.program.state_dict
        tensor = states.get(name, states.get(f"model.{name}"))
        if tensor is None or tensor.device.type == "meta" or tensor.numel() == 0:
            return name
        return self._by_storage.setdefault((tensor.data_ptr(), shape), name)

    def _attribute(self, node: fx.Node) -> Any:
        owner: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return Flow(tuple(owner.shape)) if isinstance(owner, Tensor) else owner

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        args = fx.node.map_arg(node.args, values.__getitem__)
        kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        value = node.meta.get("val")
        shapes = _shapes(value)
        if not shapes:
            return _concrete(value) if not isinstance(value, (list, tuple)) else [_concrete(v) for v in value]
        name = _name(node.target)
        call = Call(node.name, name, node.target, tuple(args), dict(kwargs), shapes, self.space, self.notes)
        self.modules[node.name] = _module_path(node)
        if name in _HOLDS_A_GRAPH:
            return self._body(args)
        return self._applied(node, call, values)

    def _applied(self, node: fx.Node, call: Call, values: dict[fx.Node, Any]) -> Any:
        rule = RULES.get(call.name)
        if rule is None or (call.args and not call.flows()):
            if rule is None:
                for flow in call.flows():
                    self.space.freeze_flow(flow, f"unknown operator {call.where}")
            return call.unlabelled()
        result = rule(call)
        if _is_in_place(node.target) and isinstance(result, Flow):
            self._overwrite(node, call, result, values)
        return result

    def _overwrite(self, node: fx.Node, call: Call, result: Flow, values: dict[fx.Node, Any]) -> None:
        """An in-place operator also changes what earlier names of the tensor stand for."""
        target = node.args[0]
        if isinstance(target, fx.Node):
            if target.target not in (torch.ops.aten.relu_.default,) and _is_view(target):
                for flow in call.flows():
                    self.space.freeze_flow(flow, f"{call.where} writes into a view")
            values[target] = result

    def _body(self, args: tuple[Any, ...]) -> Any:
        position = next(n for n, arg in enumerate(args) if isinstance(arg, fx.GraphModule))
        graph = args[position].graph
        names = [node.name for node in graph.nodes if node.op == "placeholder"]
        return self.graph(graph, dict(zip(names, args[position + 1 :], strict=True)) or {"": None})

    def _freeze_output(self, result: Any) -> None:
        for flow in torch.utils._pytree.tree_leaves(result):
            if isinstance(flow, Flow):
                self.space.freeze_flow(flow, "reaches an output of the network")


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and any(
        ret.alias_info is not None and not ret.alias_info.is_write for ret in node.target._schema.returns
    )


def _is_in_place(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.name.endswith("_")


def _name(target: Any) -> str:
    """`aten::add_.Tensor` -> `add`."""
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        return name if name.startswith("__") else name.rstrip("_")
    return str(getattr(target, "__name__", target))


def _shapes(value: Any) -> tuple[tuple[int, ...], ...]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return tuple(tuple(_concrete(size) for size in v.shape) for v in values if isinstance(v, Tensor))


def _concrete(value: Any) -> Any:
    """The number that a symbolic one stood for during tracing."""
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint
    return value


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(list(stack.values())))[0] if stack else ""
    return str(path).removeprefix("model").removeprefix(".")
