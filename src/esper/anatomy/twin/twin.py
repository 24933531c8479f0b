"""The twin: network and loss as an exported program that runs anywhere without the user's code.

The archive holds the graph and its constants. Weights come from a checkpoint, so one twin serves every
checkpoint of the same structure and constants, and nothing that could run is read from it.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from esper.anatomy.archive import read_program, write_program
from esper.anatomy.graph import Traced, is_foreign, sums_of_bits
from esper.anatomy.structure import Anatomy, Gate
from esper.anatomy.twin.gated import Gated, Gates
from esper.anatomy.twin.narrowed_norms import Left, left_in
from esper.anatomy.twin.recalibration import BATCH_NORMS, Recalibrating, Seen, Statistics, averaged
from esper.anatomy.twin.sizes import Sizes, fits, readable, sizes_for
from esper.batches import splits
from esper.errors import CheckpointCorrupt, EvidenceError

State = Mapping[str, Tensor]
_EXTRA = "esper.json"


@dataclass(frozen=True)
class Twin:
    """An exported network with its loss, run on weights that are passed in.

    `names` are the network's names of the parameter and buffer placeholders; `positions` finds a node of the
    traced graph (by the name that gates use) in this graph, whose own names may differ after loading.
    """

    program: ExportedProgram
    names: Mapping[str, str]
    positions: Mapping[str, int]
    batch: int
    is_batch_dynamic: bool
    is_coupled: bool = False
    """Whether samples of a batch meet in the loss."""
    _archives: dict[tuple[int, ...], bytes] = field(default_factory=dict, repr=False, compare=False)
    """What `archive` has written last, by its constants."""

    @property
    def is_divisible(self) -> bool:
        """Whether parts of a batch, and batches joined, tell of the network what whole ones do."""
        return self.is_batch_dynamic and not self.is_coupled

    @classmethod
    def of(cls, traced: Traced) -> Twin:
        """The twin of a traced network with its loss."""
        if not traced.has_loss:
            raise EvidenceError("A twin needs the loss: trace the network with it.")
        positions = {node.name: n for n, node in enumerate(traced.program.graph.nodes)}
        sizes = traced.batch, traced.is_batch_dynamic, traced.is_coupled
        return cls(traced.program, dict(traced.names), positions, *sizes)

    def to_bytes(self) -> bytes:
        """The archive: graph, constants, and what `from_bytes` needs; no weights, no sample inputs."""
        program = self.program
        meta = {
            "positions": dict(self.positions),
            "names": [self.names.get(node.name) for node in program.graph.nodes if node.op == "placeholder"],
            "targets": _targets(program),
            "batch": self.batch,
            "dynamic": self.is_batch_dynamic,
            "coupled": self.is_coupled,
        }
        hollow = {name: _hollow(value) for name, value in program.state_dict.items()}
        return write_program(program, {_EXTRA: json.dumps(meta)}, weights=hollow)

    def archive(self) -> bytes:
        """`to_bytes`, written once, and anew where constants are others by now.

        A loss that is a function may run another network, which is constant in the graph, and in training.
        """
        now = _bits_of_constants(self.program)
        if now not in self._archives:
            self._archives.clear()
            self._archives[now] = self.to_bytes()
        return self._archives[now]

    @classmethod
    def from_bytes(cls, data: bytes) -> Twin:
        """Loads an archive, whoever wrote it.

        Raises:
            CheckpointCorrupt: it holds what could do more than compute, or its graph is not the one it names.
        """
        stored = read_program(data)
        program, meta = stored.program, _meta(stored.extra.get(_EXTRA, "null"))
        if _targets(program) != meta["targets"]:
            _drop_unread_parts(program)
        if _targets(program) != meta["targets"]:
            raise CheckpointCorrupt(
                "A twin's graph changed its order while it was loaded; delete it and trace again."
            )
        placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
        names = {
            node: name for node, name in zip(placeholders, meta["names"], strict=False) if name is not None
        }
        coupled = bool(meta.get("coupled"))  # a twin from before that was known has no such entry
        return cls(program, names, meta["positions"], meta["batch"], meta["dynamic"], coupled)

    def run(self, state: State, sample: Any, gates: Gates | None = None) -> Any:
        """Runs the graph in eval mode; neither `state` nor `sample` is written to.

        `state` are the network's tensors by name; entries of `left_as_tensors` beside them say which
        normalizations run over what is left.

        Raises:
            EvidenceError: the sample is not built or shaped like the traced one, or a tensor is missing.
        """
        module = self.program.graph_module
        interpreter = Gated(module, gates or {}, self.left(state))
        return interpreter.run(*self.inputs(state, sample), enable_io_processing=False)

    def left(self, state: State) -> dict[fx.Node, Left]:
        """Nodes whose normalization runs over survivors, if the state says so."""
        left = left_in(state)
        nodes = list(self.program.graph.nodes) if left else []
        return {nodes[self.positions[name]]: stays for name, stays in left.items()}

    def inputs(self, state: State, sample: Any) -> list[Any]:
        """What the placeholders get, in their order; copies where the graph may write to them."""
        leaves = iter(self._leaves(sample))
        values = []
        for spec in self.program.graph_signature.input_specs:
            value = next(leaves) if spec.kind is InputKind.USER_INPUT else self._tensor(spec, state)
            is_at_risk = self.writes and spec.kind is not InputKind.PARAMETER and isinstance(value, Tensor)
            values.append(value.clone() if is_at_risk else value)
        return values

    @cached_property
    def writes(self) -> bool:
        """Does an operator of the graph write to its argument?"""
        schemas = (getattr(node.target, "_schema", None) for node in self.program.graph.nodes)
        return any(schema is not None and schema.is_mutable for schema in schemas)

    def takes(self, sample: Any) -> bool:
        """Is the graph right for the sizes of this batch?

        Raises:
            EvidenceError: the batch is not built like the traced one.
        """
        return not self.misfit(sample)

    def misfit(self, sample: Any) -> str:
        """What of this batch has another size than the graph is right for, and which; '' if nothing has.

        Raises:
            EvidenceError: the batch is not built like the traced one.
        """
        return self._misfit(self._ordered(sample))

    def _leaves(self, sample: Any) -> list[Any]:
        """The inputs in the order of the placeholders; sizes that the graph is not for are refused."""
        inputs = self._ordered(sample)
        misfit = self._misfit(inputs)
        if misfit:
            raise EvidenceError(
                f"A batch holds {misfit}, and its graph is right for that size only. Pad or crop held-out "
                "batches to the size of `sample`."
            )
        return inputs

    def _ordered(self, sample: Any) -> list[Any]:
        """The inputs in the order of the placeholders, whatever the order of a batch's keys."""
        asked, _ = self._paths
        leaves = _by_path(self.split(sample))
        if leaves.keys() != set(asked):
            odd = sorted(pytree.keystr(path) for path in leaves.keys() ^ set(asked))
            raise EvidenceError(
                f"A batch is not built like the sample that was traced: {', '.join(odd[:4])} is in one of "
                "them only. Let `probe` yield batches like `sample`."
            )
        return [leaves[path] for path in asked]

    def split(self, sample: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
        """Positional inputs, keyword inputs and target of a batch, as the network was traced with them."""
        forms = list(splits(sample, with_target=True))
        return next((form for form in forms if _by_path(form).keys() == self._paths[1]), forms[0])

    @cached_property
    def _paths(self) -> tuple[list[Any], Set[Any]]:
        """The paths of the inputs, as the placeholders stand, and those of the network's own inputs."""
        spec = self.program.call_spec.in_spec
        numbered = pytree.tree_unflatten(range(spec.num_leaves), spec)
        asked = [path for path, _ in pytree.tree_flatten_with_path(numbered)[0]]
        return asked, _by_path(numbered[0]).keys()

    def _misfit(self, inputs: Sequence[Any]) -> str:
        for leaf, shape in zip(inputs, self._shapes, strict=True):
            if shape is not None and not fits(leaf, shape):
                has = list(leaf.shape) if isinstance(leaf, Tensor) else leaf
                return f"{has} where the network was traced with {readable(shape)}"
        return ""

    @cached_property
    def _shapes(self) -> list[Sizes | None]:
        """The sizes of every input that the graph is right for; None for what is no tensor."""
        nodes = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        values = [
            nodes[spec.arg.name].meta.get("val") if spec.arg.name in nodes else None
            for spec in self.program.graph_signature.input_specs
            if spec.kind is InputKind.USER_INPUT
        ]
        limits = self.program.range_constraints
        return [sizes_for(value, limits) if isinstance(value, Tensor) else None for value in values]

    def _tensor(self, spec: Any, state: State) -> Any:
        name = self.names.get(spec.arg.name)
        if name is not None and name in state:
            return state[name]
        constant = self.program.constants.get(spec.target)
        if constant is None:
            raise EvidenceError(f"The checkpoint holds no tensor {name!r} that the twin needs.")
        return constant

    def loss(self, state: State, sample: Any) -> tuple[Tensor, Tensor]:
        """Loss (scalar) and primary output of one batch."""
        loss, output = self.run(state, sample)
        return loss.reshape(()), output

    def recalibrated(
        self,
        state: State,
        batches: Sequence[Any],
        *,
        still: Collection[str] = (),
        before: State | None = None,
    ) -> dict[str, Tensor]:
        """The state with running statistics measured anew: the mean of the batches' own, layer after layer.

        A mask changes what later batch norms see; until training has caught up, their old statistics distort
        the masked network's quality.

        Args:
            state: tensors by name.
            batches: held-out batches.
            still: running statistics that training does not move, by name: norms kept in eval mode. They are
                moved only as far as those of the batches move from `before` to `state`.
            before: tensors by name before the mask; needed where any statistics stand still.
        """
        if not self.norms:
            return dict(state)
        standing = self.standing(still)
        seen = self._watched(before, batches, standing).seen if standing and before is not None else None
        return self.with_statistics(state, self._watched(state, batches, standing, seen).statistics())

    def standing(self, still: Collection[str]) -> list[fx.Node]:
        """The batch norms whose running statistics these are, by the name of their means."""
        return [node for node in self.norms if self._parameter(node.args[3]) in still]

    @cached_property
    def running_means(self) -> frozenset[str]:
        """By these names `recalibrated` and `standing` know the running statistics of batch norms."""
        return frozenset(self._parameter(node.args[3]) for node in self.norms)

    @cached_property
    def norms(self) -> list[fx.Node]:
        """The batch norms whose running statistics are the network's; those of its loss stay as they are."""
        norms = [node for node in self.program.graph.nodes if node.target in BATCH_NORMS]
        names = [self._parameter(node.args[3]) for node in norms]
        return [n for n, name in zip(norms, names, strict=True) if name and not is_foreign(name)]

    def statistics_of(self, state: State, node: fx.Node) -> Statistics:
        """The running statistics of a batch norm."""
        return Statistics(state[self._parameter(node.args[3])], state[self._parameter(node.args[4])])

    def with_statistics(self, state: State, measured: Mapping[fx.Node, Statistics]) -> dict[str, Tensor]:
        """The state with the running statistics of some batch norms measured anew.

        A norm that runs several times in a pass keeps the mean of what it sees each time, as in training.
        """
        calibrated, groups = dict(state), dict[tuple[str, str], list[Statistics]]()
        for node, statistics in measured.items():
            # Arguments 3 and 4 of a batch norm are its running mean and variance.
            names = self._parameter(node.args[3]), self._parameter(node.args[4])
            groups.setdefault(names, []).append(statistics)
        for names, group in groups.items():
            shared = averaged(group)
            for name, value in zip(names, (shared.mean, shared.variance), strict=True):
                if name in calibrated:
                    calibrated[name] = value.to(calibrated[name].dtype)
        return calibrated

    def _watched(
        self,
        state: State,
        batches: Sequence[Any],
        still: Sequence[fx.Node],
        before: Mapping[fx.Node, Sequence[Seen]] | None = None,
    ) -> Recalibrating:
        interpreter = Recalibrating(self.program.graph_module, self.left(state), self.norms, still, before)
        with torch.no_grad():
            for batch in batches:
                interpreter.run(*self.inputs(state, batch), enable_io_processing=False)
        return interpreter

    def _parameter(self, source: Any) -> str:
        """The name of the tensor that an argument is; '' if it is none of the network's."""
        return self.names.get(source.name, "") if isinstance(source, fx.Node) else ""

    def gates_of(self, anatomy: Anatomy, group: int) -> list[Gate]:
        """The places where units of a group are read."""
        span = anatomy.unit_slice(group)
        return [g for g in anatomy.gates if ((g.units >= span.start) & (g.units < span.stop)).any()]

    def require(self, gates: Sequence[Gate]) -> None:
        """Refuses gates that are in no node of this graph.

        Raises:
            EvidenceError: the anatomy that they are of is of another network.
        """
        lost = [gate.node for gate in gates if gate.node not in self.positions]
        if lost:
            raise EvidenceError(
                f"The anatomy reads units at {lost[0]}, which this twin does not have. Trace again."
            )

    def multipliers(self, gates: Sequence[Gate], row: Tensor) -> Gates:
        """For `run`: multiplies each gated argument by `row[unit]`; `row` has one entry more than units.

        Raises:
            EvidenceError: a gate is in no node of this graph, so the anatomy is of another network.
        """

        def multiplier(gate: Gate) -> Callable[[Tensor], Tensor]:
            factor = row[torch.from_numpy(gate.units)]
            return lambda value: value * factor.to(value.dtype)

        self.require(gates)
        return {(self.positions[gate.node], gate.argument): multiplier(gate) for gate in gates}


def _by_path(call: Any) -> dict[Any, Any]:
    """Every leaf of what one call is given, by its path."""
    return dict(pytree.tree_flatten_with_path((call, {}))[0])


def _targets(program: ExportedProgram) -> list[str]:
    return [str(node.target) if node.op == "call_function" else node.op for node in program.graph.nodes]


def _drop_unread_parts(program: ExportedProgram) -> None:
    """Loading takes every operator's result apart, also where nothing reads the parts."""
    for node in list(program.graph.nodes):
        if node.target is operator.getitem and not node.users:
            program.graph.erase_node(node)


def _meta(text: str) -> dict[str, Any]:
    """What a twin keeps beside its graph: numbers and names.

    Raises:
        CheckpointCorrupt: it is something else.
    """
    try:
        meta: dict[str, Any] = json.loads(text)
        numbers = [*meta["positions"].values(), meta["batch"], int(meta["dynamic"])]
        texts = [*(name for name in meta["names"] if name is not None), *meta["targets"]]
        is_plain = {type(number) for number in numbers} == {int} and {type(text) for text in texts} <= {str}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        meta, is_plain = {}, False
    if not is_plain:
        raise CheckpointCorrupt(
            "This program is no twin: nothing beside it says which input is which weight. Trace again."
        )
    return meta


def _hollow(value: Tensor) -> Tensor:
    """A stand-in without content for a weight, of the same kind."""
    empty = torch.empty(0, dtype=value.dtype)
    return nn.Parameter(empty, requires_grad=False) if isinstance(value, nn.Parameter) else empty


def _bits_of_constants(program: ExportedProgram) -> tuple[int, ...]:
    constants = (one for one in program.constants.values() if isinstance(one, Tensor))
    dense = (one for one in constants if one.layout is torch.strided and one.device.type != "meta")
    return tuple(sums_of_bits(one for one in dense if not one.is_quantized))
