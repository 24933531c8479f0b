"""A network as a program that needs none of its code: plain outputs, and any batch size if it can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from esper.anatomy.graph import TRACE_BATCH, Axes, exported, exporting, is_dynamic, open_axes, undisturbed
from esper.errors import UntraceableError

_LABELS = ("labels", "start_positions", "end_positions", "next_sentence_label")
"""What networks that compute their own loss take for it, and nobody has who asks them afterwards."""
_PLAIN = (Tensor, int, float, bool, str, type(None))


class Plain(nn.Module):
    """Calls a network as its user does and gives what it returns as tensors, tuples, lists and dicts.

    The signature is that of one call: so many positional inputs, and keyword inputs of these names.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.forward = _signed(lambda *a, **k: plain(self.model(*a, **k)), len(args), tuple(kwargs))


def _signed(call: Callable[..., Any], positional: int, keywords: tuple[str, ...]) -> Callable[..., Any]:
    """A function with explicit inputs: the exporter does not accept `*args, **kwargs`."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    kind = inspect.Parameter
    names = [kind(f"input_{number}", kind.POSITIONAL_ONLY) for number in range(positional)]
    names += [kind(name, kind.KEYWORD_ONLY) for name in keywords]
    vars(forward)["__signature__"] = inspect.Signature(names)
    return forward


def plain(output: Any) -> Any:
    """An output without classes of other libraries: mappings become dicts, caches are left out."""
    if isinstance(output, _PLAIN):
        return output
    if isinstance(output, Mapping):
        values = {str(key): plain(value) for key, value in output.items()}
        return {key: value for key, value in values.items() if value is not None}
    if isinstance(output, (tuple, list)):
        items = [plain(value) for value in output]
        return tuple(items) if isinstance(output, tuple) else items
    return None


def for_everybody(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], varying: Axes = frozenset()
) -> ExportedProgram:
    """The network as `deployed` gives it, for texts of any length and without labels, where the code lets it.

    Args:
        model: the network.
        args: positional inputs of one batch.
        kwargs: keyword inputs of that batch.
        varying: axes that are known to have other sizes in other batches; see `trace`.
    """
    asked = {name: value for name, value in kwargs.items() if name not in _LABELS}
    if len(asked) < len(kwargs) and _gives_its_loss(model, args, kwargs):
        with suppress(UntraceableError):  # it needs them for more than its loss
            return for_everybody(model, args, asked, varying)
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    shapes = [tuple(leaf.shape) if isinstance(leaf, Tensor) else () for leaf in leaves]
    # Masks may be of any type: what is as long as the tokens goes along.
    sizes = {size for leaf, shape in zip(leaves, shapes, strict=True) if _counts(leaf) for size in shape[1:]}
    lengths = frozenset(
        (n, axis) for n, shape in enumerate(shapes) for axis in range(1, len(shape)) if shape[axis] in sizes
    )
    # Inputs without a common number of samples (words, and where each text begins) are of any length each.
    has_parts = len(_sizes((args, dict(kwargs)))) > 1
    firsts = frozenset((n, 0) for n, shape in enumerate(shapes) if shape and has_parts)
    return deployed(model, args, kwargs, free=(varying | lengths | firsts, varying | lengths, varying))


def _counts(leaf: Any) -> bool:
    """Whether it holds whole numbers, as tokens and masks are."""
    return isinstance(leaf, Tensor) and not leaf.is_floating_point() and not leaf.is_complex()


def _gives_its_loss(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    with undisturbed(model), torch.no_grad():
        output = model(*args, **kwargs)
    return isinstance(output, Mapping) and "loss" in output


def deployed(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    unwrapped: bool = False,
    free: Sequence[Axes] = (),
) -> ExportedProgram:
    """The network in eval mode, called as `model(*args, **kwargs)`; the network itself is left untouched.

    Args:
        model: the network.
        args: positional inputs of one batch.
        kwargs: keyword inputs of that batch.
        unwrapped: the network is the module of such a program itself, so its names stay what they are.
        free: axes beside that of samples whose size may differ: the first of these sets that the code lets.

    Raises:
        UntraceableError: `torch.export` cannot follow the network.
    """
    wrapped = model if unwrapped else Plain(model, args, kwargs)
    given = (args, dict(kwargs))
    with undisturbed(model), exporting():
        if not unwrapped:
            wrapped.eval()
        # First a batch of two; a network that does not take that is exported on the batch as it is.
        sets = dict.fromkeys((*free, Axes()))
        tries = [(inputs, axes) for inputs in (_pair(given), given) for axes in sets]
        for left, (inputs, axes) in zip(reversed(range(len(tries))), tries, strict=True):
            try:
                program = exported(wrapped, *inputs, dynamic_shapes=_free_axes(inputs, axes))
                if inputs is given or is_dynamic(program, TRACE_BATCH):
                    return program  # else it would be for two samples alone
            except Exception as error:  # whatever the network's code raises has one meaning here
                if not left:
                    raise UntraceableError(
                        f"torch.export cannot follow {type(model).__name__}: "
                        f"{(str(error).strip() or type(error).__name__).splitlines()[0]} "
                        "Save it with its class instead: weights and widths do not need the graph."
                    ) from error
    raise AssertionError  # the loop returns or raises


Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def _sizes(inputs: Inputs) -> set[int]:
    return {t.shape[0] if t.dim() else 0 for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)}


def _pair(inputs: Inputs) -> Inputs:
    """The same inputs with a batch of two: the exporter would take one for a constant."""
    # Tensors that disagree on the first size have no batch axis in common.
    if len(sizes := _sizes(inputs)) != 1 or 0 in sizes:
        return inputs

    def two(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.cat([leaf[:1], leaf[-1:]]) if leaf.shape[0] != TRACE_BATCH else leaf

    pair: Inputs = pytree.tree_map(two, inputs)
    return pair


def _free_axes(inputs: Inputs, free: Axes) -> dict[str, Any]:
    """What the exporter is told of every input: that its axes of samples, and others, take any size."""
    sizes = _sizes(inputs)
    samples = sizes.pop() if len(sizes) == 1 else 0
    leaves, spec = pytree.tree_flatten(inputs)
    shapes: Inputs = pytree.tree_unflatten(
        [open_axes(number, leaf, samples, free) for number, leaf in enumerate(leaves)], spec
    )
    return {**{f"input_{number}": shape for number, shape in enumerate(shapes[0])}, **shapes[1]}
