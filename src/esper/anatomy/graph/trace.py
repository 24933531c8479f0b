"""Tracing: the whole computation of a network (and its loss) as one graph of ATen operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from esper.anatomy.graph.admission import changed_inputs, check_given, check_inputs, check_tensors
from esper.anatomy.graph.chosen import Counts, chosen_rows, concrete, keep_parts_together
from esper.anatomy.graph.composing import compose
from esper.anatomy.graph.coupling import (
    couples_samples,
    exceeds_parts,
    grows_twice,
    inputs_of,
    takes_neighbors,
)
from esper.anatomy.graph.exporting import exporting
from esper.anatomy.graph.followers import followers_in
from esper.anatomy.graph.inlining import inline_regions
from esper.anatomy.graph.lowering import lowered
from esper.anatomy.graph.penalties import drop_penalties
from esper.anatomy.graph.recurrence import exported
from esper.anatomy.graph.refusal import number_from, refuse
from esper.anatomy.graph.sharded import gathered
from esper.anatomy.graph.undisturbed import undisturbed
from esper.anatomy.graph.wrappers import bare
from esper.batches import repeated, samples, sizes_of, split_sample
from esper.errors import ConfigError, EsperError, UntraceableError

Loss = Callable[[Any, Any], Tensor]
Axes = frozenset[tuple[int, int]]
"""The number of a tensor among the inputs, and the number of its axis."""
TRACE_BATCH = 2
"""Labels do not depend on the batch size; the exporter would take 1 for a constant."""
_MANY = 1 << 20
_CACHES = ("past_key_values", "cache_params", "state", "mems")


@dataclass(frozen=True)
class Traced:
    """An exported network.

    `names` maps a placeholder of the graph to the network's own (first) name of that parameter or buffer.
    `batch` is the size of the first axis of the inputs during tracing, `has_loss` says whether the first
    output is the loss. `entangled` are tensors that share memory with another tensor without being the same
    object. Where `is_coupled`, samples of a batch meet in the loss, so that no part of a batch stands for it.
    """

    program: ExportedProgram
    names: Mapping[str, str]
    batch: int
    has_loss: bool
    is_batch_dynamic: bool
    entangled: frozenset[str] = frozenset()
    is_coupled: bool = False
    counts: Counts = field(default_factory=dict)
    """What sizes stand for that depend on values."""
    followers: Mapping[str, str] = field(default_factory=dict)
    """Parameters of frozen copies, by name, and the trained ones that they are cut like."""


class _Step(nn.Module):
    """The network alone, or the network and its loss: what is traced."""

    def __init__(self, model: nn.Module, loss: Loss | None) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any], target: Any) -> Any:
        output = self.model(*args, **kwargs)
        if self.loss is None:
            return without_caches(output)
        return number_from(self.loss, output, kwargs, target), primary_output(output)


def primary_output(output: Any) -> Tensor:
    """The tensor that a metric looks at: the output, its `logits`, or its first floating-point tensor."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    for leaf in pytree.tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point():
            return leaf
    raise UntraceableError(f"The network's output ({type(output).__name__}) holds no floating-point tensor.")


def without_caches(output: Any) -> Any:
    """Keys, values and states for the next token are a by-product of a decoder: they do not fix its heads.

    Only the outputs of the transformers library (mappings that are also tuples) are known to mean that.
    """
    if isinstance(output, Mapping) and hasattr(output, "to_tuple"):
        return [value for key, value in output.items() if key not in _CACHES]
    return output


def trace(
    model: nn.Module,
    sample: Any,
    loss: Loss | None = None,
    *,
    free: Axes = frozenset(),
    followers: Mapping[str, str] | None = None,
    is_coupled: bool = False,
) -> Traced:
    """Exports `model` (with `loss`, if given) in eval mode; the model is left untouched.

    Args:
        model: any network that `torch.export` can follow, with or without `torch.compile` and
            `DistributedDataParallel` around it.
        sample: one batch, `(input, target)` with a loss; see `esper.batches.split_sample`.
        loss: `loss(output, target)`, a scalar.
        free: axes beside that of samples whose size may differ from batch to batch, where the code lets them;
            see `esper.batches.varying_axes`.
        followers: frozen copies, where they are known from before training; None: what holds the same now.
        is_coupled: whether samples of a batch are known to meet in the loss, from an earlier look.

    Raises:
        UntraceableError: the exporter cannot follow the code, and the message names the line; or a parameter
            is not a plain tensor.
        ConfigError: the model or the loss is a class, the sample is on another device than the network, or
            the loss is not a scalar.
    """
    check_given(model, loss)
    model = bare(model)
    with gathered(model):
        check_tensors(model)
        known = followers_in(model) if followers is None else followers
        if free:
            with suppress(UntraceableError, ConfigError):  # the code fixes such an axis, or something else
                return replace(_traced(model, sample, loss, free, is_coupled), followers=known)
        return replace(_traced(model, sample, loss, frozenset(), is_coupled), followers=known)


def _traced(model: nn.Module, sample: Any, loss: Loss | None, free: Axes, is_coupled: bool) -> Traced:
    check_inputs(sample)
    args, kwargs, target = split_sample(sample, with_target=loss is not None, model=model)
    inputs = (args, kwargs, target)
    _check_devices(model, inputs)
    step = _Step(model, loss)
    with undisturbed(step):
        program, batch, is_coupled, any_number = _exported(step, inputs, free, is_coupled)
        counts = chosen_rows(program, model, inputs, loss=loss, takes_any=any_number)
    if loss is not None:
        _check_scalar(program)
    traced = traced_as(program, model, batch, has_loss=loss is not None)
    # Without an axis of samples that all inputs share, as in a graph of nodes and edges, a batch is a whole.
    takes_any = any_number and len(sizes_of(inputs)) == 1
    return replace(traced, is_coupled=is_coupled, is_batch_dynamic=takes_any, counts=counts)


def _exported(
    step: _Step, inputs: tuple[Any, ...], free: Axes, is_coupled: bool
) -> tuple[ExportedProgram, int, bool, bool]:
    """The program; with how many samples it was traced, whether they meet in it, whether it takes any number.

    Two samples are enough, and make it quick, where the graph then takes any number. Where it does not, it
    is for two alone; unless samples meet in it, or it cannot work with two, so that it is for all of them.
    """
    small, batch = _small_batch(inputs)
    if small is inputs:
        program = _export(step, inputs, batch, free)
        meet = couples_samples(program) or takes_neighbors(program, batch)
        return program, batch, meet, is_dynamic(program, batch)
    few: ExportedProgram | None
    try:
        few = _export(step, small, batch, free)
    except (UntraceableError, ConfigError):
        few = None
    if few is not None:
        takes_any = is_dynamic(few, batch) and not _is_for_few(few)
        meet = is_coupled or _meet(step, few, inputs, free)
        if takes_any or not meet:
            return few, batch, meet, takes_any
    batch = samples(inputs)  # the first axis is not a batch, or its size is fixed
    program = _export(step, inputs, batch, free)
    meet = is_coupled or few is not None or couples_samples(program) or takes_neighbors(program, batch)
    # What fails on two samples does not take any number, whatever its graph says.
    return program, batch, meet, few is not None and is_dynamic(program, batch)


def _meet(step: _Step, program: ExportedProgram, inputs: tuple[Any, ...], free: Axes) -> bool:
    """Whether samples meet in a program that was traced with two of them, by its tensors or by its losses.

    Where it is for two alone, another one, for one more, shows what its tensors do.
    """
    if couples_samples(program):
        return True
    if step.loss is None:
        return False
    if exceeds_parts(partial(_loss_of, step), inputs):
        return True
    if is_dynamic(program, TRACE_BATCH):
        return False
    more = TRACE_BATCH + 1
    try:
        return grows_twice(program, _export(step, repeated(inputs, more), more, free))
    except (UntraceableError, ConfigError):
        return False


def _loss_of(step: _Step, inputs: tuple[Any, ...]) -> float:
    with torch.no_grad():
        return float(step(*inputs)[0])


def traced_as(
    program: ExportedProgram, model: nn.Module, batch: int = TRACE_BATCH, *, has_loss: bool = False
) -> Traced:
    """An exported module that holds the network as its attribute `model`, with the network's own names."""
    first_names = _first_names(model)
    names = {
        spec.arg.name: _own_name(spec.target, first_names)
        for spec in program.graph_signature.input_specs
        if spec.target is not None
    }
    return Traced(program, names, batch, has_loss, is_dynamic(program, batch), _entangled(model))


def is_dynamic(program: ExportedProgram, batch: int) -> bool:
    """Whether it takes any number of samples: none of its inputs has kept the number that was traced."""
    firsts = [value.shape[0] for value in map(_value, inputs_of(program)) if value.dim()]
    open_ones = [size for size in firsts if _is_open(size)]
    return bool(open_ones) and batch not in {int(size) for size in firsts if not _is_open(size)}


def _is_for_few(program: ExportedProgram) -> bool:
    """Whether it holds an operator that computes many samples in another way, as `cdist` does."""
    sizes: list[int | torch.SymInt] = [
        value.shape[0] for value in map(_value, inputs_of(program)) if value.dim()
    ]
    limits = (program.range_constraints.get(s.node.expr) for s in sizes if isinstance(s, torch.SymInt))
    return any(limit is not None and bool(limit.upper < _MANY) for limit in limits)


def _value(node: fx.Node) -> Tensor:
    value: Tensor = node.meta["val"]
    return value


def _is_open(size: int | torch.SymInt) -> bool:
    """Some that look open stand for one number."""
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer under each of its names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def loss_tensors(loss: Any) -> dict[str, Tensor]:
    """The tensors of a loss that is a module, under the names that a traced step has for them."""
    held = named_tensors(loss) if isinstance(loss, nn.Module) else {}
    return {_own_name(f"loss.{name}", {}): tensor for name, tensor in held.items()}


def _first_names(model: nn.Module) -> dict[str, str]:
    """For every name of a tensor, the first of its names."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}


def _own_name(target: str, first_names: Mapping[str, str]) -> str:
    """The network's name of a tensor of the traced step; `<...>` is one that the network does not own."""
    name = target.removeprefix("model.")
    return first_names.get(name, f"<{name}>") if target.startswith("model.") else f"<{target}>"


def is_foreign(name: str) -> bool:
    """Whether this is the name, in a traced step, of a tensor that the network does not own."""
    return name.startswith("<")


def _entangled(model: nn.Module) -> frozenset[str]:
    """Tensors in one memory that are not one object: cutting one of them would part them."""
    owners: dict[int, dict[int, str]] = {}
    first_names = _first_names(model)
    for name, tensor in named_tensors(model).items():
        if first_names[name] == name and tensor.device.type != "meta" and tensor.numel():
            owners.setdefault(tensor.untyped_storage().data_ptr(), {})[id(tensor)] = name
    return frozenset(name for names in owners.values() if len(names) > 1 for name in names.values())


def _export(step: _Step, inputs: tuple[Any, ...], batch: int, free: Axes = frozenset()) -> ExportedProgram:
    leaves, spec = pytree.tree_flatten(inputs)
    shapes = pytree.tree_unflatten([open_axes(*leaf, batch, free) for leaf in enumerate(leaves)], spec)
    try:
        with exporting():
            program = exported(step, inputs, dynamic_shapes=shapes)
            inline_regions(program)
            compose(program)
            # What writes into its input is refused later, by the line, which is gone once it is written out.
            program = program if changed_inputs(program) else lowered(program)
            if step.loss is not None:
                drop_penalties(program)
            keep_parts_together(program)
            return program
    except EsperError:
        raise
    except Exception as error:
        refuse(step.model, step.loss, inputs, error)
        raise  # not reached: a refusal always raises


def open_axes(number: int, leaf: Any, batch: int, free: Axes) -> dict[int, Any] | None:
    """The axes of an input along which the graph is to take any size."""
    if not isinstance(leaf, Tensor) or not leaf.dim():
        return None
    axes = {axis for tensor, axis in free if tensor == number} | ({0} if leaf.shape[0] == batch else set())
    return dict.fromkeys(sorted(axes), Dim.AUTO) or None


def _check_devices(model: nn.Module, inputs: Any) -> None:
    home = next((p.device for p in model.parameters()), None)
    for leaf in pytree.tree_leaves(inputs):
        if home is not None and isinstance(leaf, Tensor) and leaf.device != home:
            raise ConfigError(
                f"The sample holds a tensor on {leaf.device} but the network's parameters are on {home}. "
                f"Move the sample first, for example sample=(x.to('{home}'), y.to('{home}'))."
            )


def _tensors_of(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _small_batch(inputs: Any) -> tuple[Any, int]:
    """Cuts (or repeats) the batch axis to `TRACE_BATCH` where every tensor agrees on it."""
    tensors = _tensors_of(inputs)
    if not tensors:
        seen = ", ".join(sorted({type(leaf).__name__ for leaf in pytree.tree_leaves(inputs)}))
        raise ConfigError(
            f"The sample holds no tensor that can be seen ({seen}). Inputs have to be tensors, or tuples, "
            "lists or dictionaries of them; give one batch of that form as the data loader yields it."
        )
    # Tensors that disagree on the first size have no batch axis in common.
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in tensors}
    if len(sizes) != 1 or 0 in sizes:
        return inputs, tensors[0].shape[0] if tensors[0].dim() else 1
    return repeated(inputs, TRACE_BATCH), TRACE_BATCH


def _check_scalar(program: ExportedProgram) -> None:
    output = next(node for node in program.graph.nodes if node.op == "output")
    value = output.args[0][0].meta["val"]
    shape = tuple(concrete(size, {}) for size in value.shape)
    if prod(shape) != 1:
        raise ConfigError(
            f"The loss returned a tensor of shape {shape}, not a scalar. Esper differentiates "
            "and compares one number per batch: reduce it, for example with reduction='mean' or `.mean()`."
        )
