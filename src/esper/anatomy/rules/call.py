"""One operator call of the graph as a rule sees it, and what rules note down beside the labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from esper.anatomy.labels import Flow, LabelSpace

Result = Any  # a Flow, a list of Flows, or a plain number


@dataclass(frozen=True)
class Product:
    """A contraction: its joint index space without repeated labels, from which its work follows."""

    node: str
    shape: tuple[int, ...]
    layers: tuple[Tensor, ...]


@dataclass(frozen=True)
class Read:
    """An activation read by a contraction: argument `argument` of `node`, labels laid out as the activation is."""

    node: str
    argument: int
    layer: Tensor


@dataclass
class Notes:
    """What rules observe: labels of weight rows and columns, contractions, reads."""

    produced: list[Tensor] = field(default_factory=list)
    consumed: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)


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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.shapes[0]

    @property
    def where(self) -> str:
        """For reasons: `layer_norm at layer_norm_3`."""
        return f"{self.name} at {self.node}"

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)

    def flows(self) -> list[Flow]:
        """Every tensor argument, also those inside lists."""
        found: list[Flow] = []
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Flow):
                found.append(value)
            elif isinstance(value, (list, tuple)):
                found.extend(item for item in value if isinstance(item, Flow))
        return found

    def result(self, layers: list[Tensor] | tuple[Tensor, ...], shape: tuple[int, ...] | None = None) -> Flow:
        return self.space.flow(self.shape if shape is None else shape, layers)

    def unlabelled(self) -> Result:
        """Results without identity, one flow per result tensor."""
        flows = [Flow(shape) for shape in self.shapes]
        return flows[0] if len(flows) == 1 else flows


Rule = Callable[[Call], Result]


def spread(layer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A compact layer at the full size of its tensor (a view, nothing is copied)."""
    return layer.expand(torch.Size(shape))
