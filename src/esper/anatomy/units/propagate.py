"""Label propagation: runs the exported graph on labels instead of numbers."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from esper.anatomy.graph import Traced, concrete, is_in_place, is_view, operator_name
from esper.anatomy.labels import Flow, LabelSpace
from esper.anatomy.labels.rules import RULES, Call, Notes, Result, Rule, pointing

_HOLDS_A_GRAPH = (
    "wrap_with_set_grad_enabled",
    "wrap_with_autocast",
    "hints_wrapper",
    "checkpoint",
    "tag_activation_checkpoint",
    "invoke_subgraph",
)
_RULE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass
class Propagation:
    """The facts about labels, the labels of every tensor axis, and what was noted on the way.

    `values` are the flows (or plain numbers) of every node, once for each time that its graph was run.
    """

    space: LabelSpace
    axes: dict[str, list[Tensor]]
    parameters: set[str]
    notes: Notes
    values: dict[fx.Node, list[Any]]


def propagate(traced: Traced, *, allow_approximate: bool = False) -> Propagation:
    """Interprets the exported graph of `traced` on labels.

    With `allow_approximate`, what a normalization runs over may go although that changes the rest a little.
    """
    run = _Run(traced, allow_approximate)
    with torch.device("cpu"):  # whatever the user's default device is, labels live here
        run.freeze_output(run.graph(traced.program.graph))
        run.tie(traced.followers)
    if traced.has_loss:  # what a loss computes (by a network of its own, perhaps) is no work of this network
        outside = _outside_the_network(traced.program.graph)
        run.notes.products[:] = [p for p in run.notes.products if p.node.partition("/")[0] not in outside]
    return Propagation(run.space, run.axes, run.parameters, run.notes, run.values)


def _outside_the_network(graph: fx.Graph) -> set[str]:
    """The nodes of a traced step that are known to be the loss's, by name."""
    stacks = {node.name: node.meta.get("nn_module_stack") or {} for node in graph.nodes}
    paths = {name: [path.partition(".")[0] for path, _ in stack.values()] for name, stack in stacks.items()}
    return {name for name, roots in paths.items() if roots and "model" not in roots}


class _Run:
    def __init__(self, traced: Traced, allow_approximate: bool) -> None:
        self.traced, self.allow_approximate = traced, allow_approximate
        self.space = LabelSpace()
        self.notes = Notes()
        self.axes: dict[str, list[Tensor]] = {}
        self.parameters: set[str] = set()
        self.needed: set[fx.Node] = set()
        self.values: dict[fx.Node, list[Any]] = {}
        self._unread: dict[fx.Node, str] = {}
        """Of nodes that no output depends on: the parameter that only such nodes read."""
        self._kinds = {spec.arg.name: spec.kind for spec in traced.program.graph_signature.input_specs}

    def graph(self, graph: fx.Graph, given: Mapping[str, Any] | None = None, inside: str = "") -> Any:
        """Runs one graph; the body of a higher-order operator is `given` inputs and lies `inside` it."""
        values: dict[fx.Node, Any] = {}
        self.needed |= _needed(graph)
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node] = self._placeholder(node) if given is None else given[node.name]
                is_own = given is None and self._kinds.get(node.name) is InputKind.PARAMETER
                if is_own and self.needed.isdisjoint(node.users):
                    self._unread[node] = self.traced.names.get(node.name, "")
            elif node.op == "get_attr":
                values[node] = self._attribute(node)
            elif node.op == "output":
                return fx.node.map_arg(node.args[0], values.__getitem__)
            else:
                values[node] = self._call(node, values, inside)
            self.values.setdefault(node, []).append(values[node])
        return None

    def _placeholder(self, node: fx.Node) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return self._number(value)
        shape = tuple(map(self._number, value.shape))
        name = self.traced.names.get(node.name)
        kind = self._kinds.get(node.name)
        is_loose = kind is InputKind.CONSTANT_TENSOR  # an attribute that is no buffer: nobody could cut it
        if name is None or kind is None or is_loose:
            return Flow(shape, is_constant=is_loose)
        return self._tensor(name, shape, kind)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: InputKind) -> Flow:
        # Labels belong to the tensor: a tied one has the same ones wherever it comes in.
        if name not in self.axes:
            # An axis of one coordinate cannot lose it, and has no label.
            self.axes[name] = [
                self.space.fresh(size) if size > 1 else torch.zeros(size, dtype=torch.long) for size in shape
            ]
        layers = [
            labels.reshape([-1 if n == axis else 1 for n in range(len(shape))])
            for axis, labels in enumerate(self.axes[name])
            if labels.numel() > 1
        ]
        is_parameter = kind is InputKind.PARAMETER
        if is_parameter:
            self.parameters.add(name)
        if name in self.traced.entangled:
            for layer in layers:
                self.space.freeze(layer, f"{name} shares memory with another tensor")
        if name.startswith("<loss."):  # a network of its own in it (perceptual loss), weights, a class center
            for layer in layers:
                self.space.freeze(
                    layer, f"{name} belongs to the loss, which a cut of the network leaves alone"
                )
        return Flow(shape, tuple(layers), is_constant=True, is_zeroed=is_parameter)

    def _attribute(self, node: fx.Node) -> Any:
        owner: Any = node.graph.owning_module
        for part in str(node.target).split("."):
            owner = getattr(owner, part)
        return Flow(tuple(owner.shape), is_constant=True) if isinstance(owner, Tensor) else owner

    def _call(self, node: fx.Node, values: dict[fx.Node, Any], inside: str) -> Any:
        args: Any = fx.node.map_arg(node.args, values.__getitem__)
        kwargs: Any = fx.node.map_arg(node.kwargs, values.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        value = node.meta.get("val")
        shapes = self._shapes(value)
        if not shapes:
            return pytree.tree_map(self._number, value)
        name = operator_name(node.target)
        target: Any = node.target
        where, is_needed = inside + node.name, node in self.needed
        call = Call(
            where,
            name,
            target,
            tuple(args),
            dict(kwargs),
            shapes,
            self.space,
            self.notes,
            is_needed,
            is_approximate=self.allow_approximate and not inside,
        )
        if name in _HOLDS_A_GRAPH:
            return self._body(call)
        return self._applied(node, call, values)

    def _applied(self, node: fx.Node, call: Call, values: dict[fx.Node, Any]) -> Any:
        flows = call.flows()
        is_constant = bool(flows) and all(flow.is_constant for flow in flows)
        rule = RULES.get(call.name)
        if rule is None and not flows:
            result = call.unlabelled()  # made from numbers alone
        elif rule is None:
            result = call.frozen(f"unknown operator {call.where}")
        else:
            result = _followed(rule, call)
        # What took the labels away is handed on, so that a reason names the first cause.
        cause = next((flow.cause for flow in flows if flow.cause), "")

        def marked(flow: Flow) -> Flow:
            return replace(flow, is_constant=is_constant, cause=flow.cause or ("" if flow.layers else cause))

        result = pointing(call, pytree.tree_map(marked, result, is_leaf=_is_flow))
        # A list of results may hold plain numbers between tensors.
        value = node.meta.get("val")
        if isinstance(value, (list, tuple)) and not isinstance(result, list):
            result = [result if isinstance(v, Tensor) else self._number(v) for v in value]
        if is_in_place(node.target) and isinstance(result, Flow):
            self._overwrite(node, call, result, values)
        if not call.is_needed:
            self._keep_unread(node, call, result)
        return result

    def _keep_unread(self, node: fx.Node, call: Call, result: Any) -> None:
        """Keeps whole what a mask would change unseen, such as a deviation that only training draws with.

        `softplus(rho)` of a zero is a large deviation. Where no output depends on it, nothing that is
        measured shows what training makes of that.
        """
        name = next((self._unread[read] for read in node.all_input_nodes if read in self._unread), None)
        if not name:
            return
        self._unread[node] = name
        for flow in filter(_is_flow, pytree.tree_leaves(result, is_leaf=_is_flow)):
            if flow.is_constant and not flow.is_zeroed:
                self.space.freeze_flow(
                    flow,
                    f"{name} is read only as the network trains, where {call.where} makes no zero of a zero",
                )

    def _overwrite(self, node: fx.Node, call: Call, result: Flow, values: dict[fx.Node, Any]) -> None:
        """An in-place operator also changes what earlier names of the tensor stand for."""
        target = node.args[0]
        if isinstance(target, fx.Node):
            if len(call.flows()) > 1 and is_view(target):
                call.frozen(f"{call.where} writes into a view")
            values[target] = result

    def _body(self, call: Call) -> Any:
        position = next(n for n, arg in enumerate(call.args) if isinstance(arg, fx.GraphModule))
        body: fx.Graph = call.args[position].graph
        names = [node.name for node in body.nodes if node.op == "placeholder"]
        given = dict(zip(names, call.args[position + 1 :], strict=True))
        known = len(self.notes.reads)
        result = self.graph(body, given, inside=f"{call.node}/")
        for read in self.notes.reads[
            known:
        ]:  # unmeasured is not unimportant: what cannot be gated is not cut
            self.space.freeze(read.layer, f"is read inside {call.where}, where its effect cannot be measured")
        return result

    def _number(self, value: Any) -> Any:
        return concrete(value, self.traced.counts)

    def _shapes(self, value: Any) -> tuple[tuple[int, ...], ...]:
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(tuple(map(self._number, v.shape)) for v in values if isinstance(v, Tensor))

    def tie(self, followers: Mapping[str, str]) -> None:
        """Coordinates of copies go with those of the originals."""
        for name, original in followers.items():
            if name in self.axes and original in self.axes:
                for own, other in zip(self.axes[name], self.axes[original], strict=True):
                    self.space.unite(own, other, f"{name} follows {original}")

    def freeze_output(self, result: Any) -> None:
        for flow in pytree.tree_leaves(result):
            if isinstance(flow, Flow):
                self.space.freeze_flow(flow, "reaches an output of the network")


def _followed(rule: Rule, call: Call) -> Result:
    """What the rule says, or, where it does not know this form of the operator, everything frozen."""
    try:
        result = rule(call)
    except _RULE_ERRORS as error:
        return call.frozen(
            f"{call.where} is used in a form that is not followed ({type(error).__name__}: {error})"
        )
    flows = [leaf for leaf in pytree.tree_leaves(result, is_leaf=_is_flow) if isinstance(leaf, Flow)]
    if tuple(flow.shape for flow in flows) != call.shapes:
        return call.frozen(f"{call.where} is used in a form that is not followed")
    return result


def _needed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that an output depends on, or that write in place."""
    needed: set[fx.Node] = set()
    # Backwards: what a needed node reads is needed.
    for node in reversed(graph.nodes):
        if node.op in ("output", "placeholder") or is_in_place(node.target) or node in needed:
            needed.update((node, *node.all_input_nodes))
    return needed


def _is_flow(value: Any) -> bool:
    return isinstance(value, Flow)
