"""One batch with many variants of a network's tensors: up to where they differ it is run once.

A layer that gets narrower changes nothing of what is computed before it. So the values at that place are
kept, and a variant begins there. Variants that differ later and later let the batch move on; one that differs
earlier lets it begin anew.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind

from esper.anatomy.twin.narrowed_norms import Left, OverSurvivors
from esper.anatomy.twin.recalibration import Recalibrating, Statistics
from esper.anatomy.twin.twin import State, Twin

Runner = TypeVar("Runner", bound=OverSurvivors)
Values = dict[fx.Node, Any]


class Variants:
    """One batch, to be run with variants of a state."""

    def __init__(
        self, twin: Twin, base: State, sample: Any, most_bytes: int, still: Collection[str] = ()
    ) -> None:
        """Takes up a batch.

        Args:
            twin: the network with its loss.
            base: its tensors; no variant writes to them.
            sample: the batch.
            most_bytes: what may be kept between two variants; where it would be more, all is run anew.
            still: running statistics that training does not move, by name.
        """
        module = twin.program.graph_module
        self._base, self._differing = base, _Differing(twin, base)
        left, standing = twin.left(base), twin.standing(still)
        self._plain = _Front(twin, base, sample, partial(OverSurvivors, module), left, most_bytes)
        self._normed = _Front(
            twin,
            base,
            sample,
            partial(Recalibrating, module, norms=twin.norms, still=standing),
            left,
            most_bytes,
        )
        places = [place for place, node in enumerate(_computing(twin)) if node in twin.norms]
        self._last_norm = max(places, default=-1)

    def loss(self, state: State) -> float:
        """Mean loss of the batch."""
        place, left = self._differing.of(state)
        loss: Tensor = self._plain.run(state, place, left)[1][0]
        return float(loss.reshape(()))

    def statistics(self, state: State) -> Mapping[fx.Node, Statistics]:
        """What batch norms see of the batch, from where the state differs from the base."""
        return self._seen(state, *self._differing.of(state))

    @cached_property
    def usual(self) -> Mapping[fx.Node, Statistics]:
        """What all of them see with the tensors of the base."""
        return self._seen(self._base, 0, self._differing.left)

    def _seen(self, state: State, place: int, left: Mapping[fx.Node, Left]) -> Mapping[fx.Node, Statistics]:
        if place > self._last_norm:
            return {}
        seen = self._normed.run(state, place, left, self._last_norm + 1)[0].seen
        return {node: one.batch for node, (one,) in seen.items()}


def first_uses(twin: Twin) -> dict[str, int]:
    """Where every tensor of the network is first read: its name, and the place of the node."""
    uses: dict[str, int] = {}
    for place, node in enumerate(_computing(twin)):
        for argument in node.all_input_nodes:
            name = twin.names.get(argument.name)
            if argument.op == "placeholder" and name is not None:
                uses.setdefault(name, place)
    return uses


class _Differing:
    """Tells where a state first differs from the one that variants are of."""

    def __init__(self, twin: Twin, base: State) -> None:
        self._twin, self._base = twin, base
        self.left = twin.left(base)
        self._places = {node: place for place, node in enumerate(_computing(twin))}
        self._uses = sorted(first_uses(twin).items(), key=lambda use: use[1])

    def of(self, state: State) -> tuple[int, Mapping[fx.Node, Left]]:
        """The place of the first node that another state changes, and what normalizations run over in it."""
        left = self._twin.left(state)
        place = min(
            (self._places[node] for node in left if self._is_other(node, left)), default=len(self._places)
        )
        for name, use in self._uses:
            if use >= place:
                break
            one, other = state.get(name), self._base.get(name)
            # Most tensors are the very same, which costs nothing to see.
            if one is not other and (one is None or other is None or not torch.equal(one, other)):
                place = use
        return place, left

    def _is_other(self, node: fx.Node, left: Mapping[fx.Node, Left]) -> bool:
        before = self.left.get(node)
        return before is None or any(
            not torch.equal(one, other) for (_, one), (_, other) in zip(before, left[node], strict=True)
        )


class _Front(Generic[Runner]):
    """As far as a batch has been run with the tensors of all variants in common."""

    def __init__(
        self,
        twin: Twin,
        base: State,
        sample: Any,
        runner: Callable[[Mapping[fx.Node, Left]], Runner],
        left: Mapping[fx.Node, Left],
        most_bytes: int,
    ) -> None:
        self._nodes = _computing(twin)
        self._placeholders = [node for node in twin.program.graph.nodes if node.op == "placeholder"]
        self._names = {node: twin.names[node.name] for node in self._placeholders if node.name in twin.names}
        kinds = zip(self._placeholders, twin.program.graph_signature.input_specs, strict=True)
        self._parameters = {node for node, spec in kinds if spec.kind is InputKind.PARAMETER}
        self._twin, self._base, self._sample, self._runner, self._left = twin, base, sample, runner, left
        self._most_bytes, self._writes = most_bytes, twin.writes
        self._place, self._values = 0, Values()

    def run(
        self, state: State, place: int, left: Mapping[fx.Node, Left], end: int | None = None
    ) -> tuple[Runner, Any]:
        """Runs the rest, or what of it comes before `end`, with the tensors of a variant.

        The variant differs from `place` on.

        Returns:
            What has run it, and the value of its last node: at the end what the graph gives.
        """
        place = min(place, len(self._nodes) - 1)  # what the graph gives is asked for in any case
        with torch.no_grad():
            if not self._values or place < self._place:
                given = self._twin.inputs(self._base, self._sample)
                self._place, self._values = 0, dict(zip(self._placeholders, given, strict=True))
            _run(self._runner(self._left), self._nodes[self._place : place], self._values)
            self._place = place
            values = self._copied()
            for node, name in self._names.items():
                own = state.get(name)
                if own is not None and own is not self._base.get(name) and node in values:
                    values[node] = own.clone() if self._writes and node not in self._parameters else own
            if self._num_bytes() > self._most_bytes:
                self._values = Values()
            runner = self._runner(left)
            return runner, _run(runner, self._nodes[place:end], values)

    def _num_bytes(self) -> int:
        """What is kept beside the network and the batch."""
        kept = (value for node, value in self._values.items() if node.op != "placeholder")
        return sum(value.numel() * value.element_size() for value in kept if isinstance(value, Tensor))

    def _copied(self) -> Values:
        """The values to go on with, of which nothing that is kept can be written to."""
        if not self._writes:
            return dict(self._values)
        at_risk = [node for node in self._values if node not in self._parameters]
        # At once, so that views stay views of the same.
        copies = copy.deepcopy([self._values[node] for node in at_risk])
        return {**self._values, **dict(zip(at_risk, copies, strict=True))}


def _computing(twin: Twin) -> list[fx.Node]:
    return [node for node in twin.program.graph.nodes if node.op != "placeholder"]


def _run(runner: OverSurvivors, nodes: Iterable[fx.Node], values: Values) -> Any:
    """Runs some nodes, leaves among the values those that later ones need, and returns the last one's."""
    runner.env, value = values, None
    for node in nodes:
        values[node] = value = runner.run_node(node)
        for unused in runner.user_to_last_uses.get(node, ()):
            values.pop(unused, None)
    return value
