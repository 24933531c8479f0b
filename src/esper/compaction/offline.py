"""Cutting what a checkpoint holds, without the network's code: its twin is cut as a program."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy
from esper.anatomy.archive import read_program
from esper.anatomy.cut import cut_traced
from esper.anatomy.graph import Traced, standalone
from esper.anatomy.proof import Inputs
from esper.anatomy.twin import Twin
from esper.checkpoint import CheckpointCatalog, CheckpointRef
from esper.compaction.compacted import Compacted, outcome
from esper.elesh import DataRef, read_data
from esper.emrakul import Settings
from esper.emrakul.plan import choose_by_magnitude
from esper.leyline import decode
from esper.runs.network import (
    ANATOMY_FILE,
    FORM_FILE,
    PROGRAM_FILE,
    NetworkFiles,
    criterion_of,
    form_from,
    former_name,
    read_state,
    seed_paths,
    state_of,
)


def finished_files(catalog: CheckpointCatalog, checkpoint: CheckpointRef) -> NetworkFiles | None:
    """What a finished run has kept in its last checkpoint; None if this is another checkpoint."""
    if PROGRAM_FILE not in checkpoint.files:
        return None
    program = read_program(checkpoint.file(PROGRAM_FILE).read_bytes()).program
    record = json.loads(checkpoint.file(FORM_FILE).read_bytes())["form"]
    parts = read_state(checkpoint)
    anatomy = decode(Anatomy, json.loads(checkpoint.file(ANATOMY_FILE).read_bytes()))
    origin = parts["terms"]["origin"]
    seeds = seed_paths(parts["structure"])
    after = {former_name(group.name, seeds): group.width for group in anatomy.groups}
    facts = {
        "flops": [origin["flops"], anatomy.flops()],
        "parameters": [origin["parameters"], anatomy.parameters()],
        "widths": {name: [width, after.get(name, 0)] for name, width in origin["widths"].items()},
    }
    made = "its cuts were proven when they were made" if _is_smaller(facts) else "nothing was cut from it"
    facts["notes"] = [f"The network of a finished run; {made}."]
    form = None if record is None else form_from(record, checkpoint.path)
    twin = Twin.from_bytes(catalog.blob(checkpoint, "twin").read_bytes())
    return NetworkFiles(
        program, _inputs(catalog, checkpoint, twin), facts, state_of(parts["model"]["tensors"]), form
    )


def _is_smaller(facts: Mapping[str, Any]) -> bool:
    return any(after < before for before, after in facts["widths"].values())


def compact_checkpoint(
    catalog: CheckpointCatalog, checkpoint: CheckpointRef, settings: Settings | None
) -> Compacted:
    """Cuts the units that are masked in a checkpoint, and more if there is a target.

    Args:
        catalog: where the checkpoint's twin and samples lie.
        checkpoint: a verified checkpoint of a session.
        settings: target and floors of a further choice by magnitude; None cuts what is masked.

    Returns:
        The network without its loss; it gives the output that the metric looks at.

    Raises:
        SurgeryError: it cannot be cut.
        CheckpointError: the checkpoint does not hold what is needed.
    """
    anatomy = decode(Anatomy, json.loads(checkpoint.file(ANATOMY_FILE).read_bytes()))
    parts = read_state(checkpoint)
    weights = state_of(parts["model"]["tensors"])
    keep = np.asarray(parts["masks"]["keep"], np.bool_)
    notes: tuple[str, ...] = ()
    if settings is not None:
        choice = choose_by_magnitude(anatomy, weights, settings)
        keep, notes = keep & choice.keep, choice.notes
    elif keep.all():
        notes = ("Nothing is masked in this checkpoint, so the network was written as it is.",)
    twin = Twin.from_bytes(catalog.blob(checkpoint, "twin").read_bytes())
    inputs = _inputs(catalog, checkpoint, twin)
    made = cut_traced(
        Traced(twin.program, twin.names, twin.batch, True, twin.is_batch_dynamic),
        anatomy,
        keep,
        inputs,
        _state(twin, weights | criterion_of(checkpoint)),
        lambda module: _without_loss(module, twin.program),
    )
    return outcome(standalone(made.program), made, inputs, notes=notes)


def _inputs(catalog: CheckpointCatalog, checkpoint: CheckpointRef, twin: Twin) -> Inputs:
    """The inputs of the sample that the run keeps."""
    data = DataRef(catalog.blob(checkpoint, "batches"), catalog.blob(checkpoint, "samples"))
    return Inputs.of(twin.split(read_data(data)[0]), is_batch_dynamic=twin.is_batch_dynamic)


def _state(twin: Twin, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's weights by the program's own names, and the constants that are part of the program."""
    program = twin.program
    held = {name: value for name, value in program.constants.items() if isinstance(value, Tensor)}
    for spec in program.graph_signature.input_specs:
        name = twin.names.get(spec.arg.name, "")
        if spec.target is not None and name in weights:
            held[spec.target] = weights[name]
    return held


class _Called(nn.Module):
    """Calls a graph that takes its inputs one after the other."""

    def __init__(self, module: fx.GraphModule, order: list[Any]) -> None:
        super().__init__()
        self.module = module
        self.order = order

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = dict(pytree.tree_flatten_with_path((args, kwargs))[0])
        return self.module(*(given[path] for path in self.order))


def _without_loss(module: fx.GraphModule, program: ExportedProgram) -> nn.Module:
    """The network alone: its second result is the output, and nobody asks for the target any more."""
    graph = module.graph
    output = graph.output_node()
    output.args = (output.args[0][1],)  # type: ignore[index]  # (loss, output), see `trace`
    spec = program.call_spec.in_spec
    numbered = pytree.tree_unflatten(range(spec.num_leaves), spec)
    paths = [
        path[1:] for path, _ in pytree.tree_flatten_with_path(numbered)[0]
    ]  # within (args, kwargs, target)
    order = [path for path in paths if path[0] != pytree.SequenceKey(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph.eliminate_dead_code()
    for node, path in zip(graph.find_nodes(op="placeholder"), paths, strict=True):
        if path[0] == pytree.SequenceKey(2):
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    return _Called(module, order)
