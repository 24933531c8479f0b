"""One operator call of the graph as a rule sees it, and what rules note down beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.anatomy.labels.labels import Flow, LabelSpace, varying_axes

Result = Any  # a Flow, a list of Flows, or a plain number


@dataclass(frozen=True)
class Product:
    """A contraction: its joint index space without repeated labels, from which its work follows."""

    node: str
    shape: tuple[int, ...]
    layers: tuple[Tensor, ...]
    summed: tuple[int, ...]
    places: tuple[int, int]
    """Places outside the joint space: multiplications for each of its points, and results (pixels)."""


@dataclass(frozen=True)
class Read:
    """What a contraction sums over `axes`: argument `argument` of `node`, labels laid out as it is."""

    node: str
    argument: int
    layer: Tensor
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Coupled:
    """An axis of the first argument of `node` that it normalizes over; one label for each coordinate."""

    node: str
    axis: int
    labels: Tensor
    reason: str


@dataclass
class Notes:
    """What rules observe: labels of weight rows and columns, contractions, reads, normalized axes."""

    produced: list[Tensor] = field(default_factory=list)
    consumed: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    coupled: list[Coupled] = field(default_factory=list)
    routed: list[Tensor] = field(default_factory=list)
    """Labels that tokens are shared out among: experts, where a weight has them as one of three axes."""
    least: list[tuple[Tensor, int]] = field(default_factory=list)
    """Labels of which so many must stay."""
    directions: list[Tensor] = field(default_factory=list)
    """Labels of slices that are divided by their own length, and so must not be zero."""


@dataclass(frozen=True)
class Call:
    """An operator call: concrete arguments (flows for tensors), the concrete shapes of its results."""

    node: str
    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    space: LabelSpace
    notes: Notes
    is_needed: bool = True
    """Does an output depend on it? Code that nobody reads still has to run; its values do not matter."""
    is_approximate: bool = False
    """May normalizations lose what they run over?"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    @property
    def where(self) -> str:
        """For reasons: `layer_norm at layer_norm_3`."""
        return f"{self.name} at {self.node}"

    def reason(self, what: str) -> str:
        """Why labels stay that meet a tensor without labels: what took those away, or this call itself."""
        causes = [flow.cause for flow in self.flows() if flow.cause and not flow.layers]
        return causes[0] if causes else f"{self.where} {what}"

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def flows(self) -> list[Flow]:
        """Every tensor argument, also those inside lists."""
        return [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Flow)]

    def couple(self, flow: Flow, axis: int, what: str, *, can_shrink: bool = False) -> None:
        """Says that the result depends on every coordinate of an axis: none can go without changing it.

        Where approximation is allowed and the operator `can_shrink` (run over what is left), they may go.
        """
        if not self.is_needed:
            return
        reason = f"statistic-coupled: {self.where}{what}"
        if not (self.is_approximate and can_shrink):
            self.space.fix_axis(flow, axis, reason)
            return
        for layer in flow.layers:
            if layer.shape[axis] > 1:
                # One label for each coordinate of the axis: that of the whole slice across it.
                others = [other for other in varying_axes(layer) if other != axis]
                labels = self.space.conjunction(layer, others).flatten()
                self.notes.coupled.append(Coupled(self.node, axis, labels, reason))

    def only(self) -> Flow:
        """The first argument, for rules that follow nothing else: every other tensor argument is frozen."""
        first: Flow = self.args[0]
        for other in self.flows()[1:]:
            self.space.freeze_flow(other, f"{self.where} does not follow this argument")
        return first

    def result(
        self, layers: Sequence[Tensor], shape: tuple[int, ...] | None = None, *, is_zeroed: bool = False
    ) -> Flow:
        return self.space.flow(self.shape if shape is None else shape, layers, is_zeroed=is_zeroed)

    def unlabelled(self) -> Result:
        """Results without identity, one flow per result tensor."""
        flows = [Flow(shape) for shape in self.shapes]
        return flows[0] if len(flows) == 1 else flows

    def frozen(self, reason: str) -> Result:
        """Results without identity of arguments that all stay as they are."""
        for flow in self.flows():
            self.space.freeze_flow(flow, reason)
        flows = [Flow(shape, cause=reason) for shape in self.shapes]
        return flows[0] if len(flows) == 1 else flows


Rule = Callable[[Call], Result]


def operators(names: str) -> tuple[str, ...]:
    """Operator names from a text that separates them by space."""
    return tuple(names.split())


def with_size(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    """The same shape with another size along one axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def spread(layer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A compact layer at the full size of its tensor (a view, nothing is copied)."""
    return layer.expand(torch.Size(shape))


def read(call: Call, argument: int, flow: Flow, axes: Sequence[int]) -> None:
    """Notes that argument `argument` is read along `axes` (as the argument is laid out)."""
    axes = [axis % len(flow.shape) for axis in axes]
    for layer in flow.layers:
        along = tuple(axis for axis in axes if layer.shape[axis] > 1)
        if along:
            call.notes.reads.append(Read(call.node, argument, layer, along))
