"""Whether the samples of a batch meet: then a batch is one piece of evidence, and no half of it is."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from esper.batches import picked, samples, sizes_of

_NAMELESS: frozenset[object] = frozenset()
_DIVISIONS = 6
_ROUNDING = 1e-4
"""Below this share of a loss a difference is none."""
_SURELY = 4.0
"""By so many times its spread a contrastive or ranking loss differs from its parts; weighted means do not."""


def couples_samples(program: ExportedProgram) -> bool:
    """Whether a tensor of the graph has samples along two axes, as similarities within a batch do.

    Args:
        program: traced for any number of samples; what is traced for one number shows nothing here.
    """
    symbols = _of_samples(program)
    return any(_along_samples(value, value, symbols) > 1 for _, value in _tensors(program))


def grows_twice(one: ExportedProgram, other: ExportedProgram) -> bool:
    """The same of a network that was traced for one number of samples, and once more for another.

    Axes that differ are axes of samples. Where the two graphs are not alike, nothing is known of it: False.
    """
    ours, theirs = (dict(_tensors(program)) for program in (one, other))
    if ours.keys() != theirs.keys():
        return False
    symbols = _of_samples(one)
    return any(_along_samples(value, theirs[name], symbols) > 1 for name, value in ours.items())


def exceeds_parts(loss_of: Callable[[Any], float], batch: Any) -> bool:
    """Whether the loss of a batch is another than its halves tell, and always in the same direction.

    A mean over samples is that of both halves, up to what each weighs, and a sum is their sum. What is
    neither grows with the number of samples: contrastive and ranking losses do, also where no tensor has
    samples along two axes.

    Args:
        loss_of: the loss of a batch of any size; what it raises says that the code does not take any size,
            and so tells nothing.
        batch: its samples are divided, several times.
    """
    count = samples(batch) // 4 * 4
    if len(sizes_of(batch)) != 1 or count < 8:
        return False
    orders = [torch.randperm(count, generator=torch.Generator().manual_seed(n)) for n in range(_DIVISIONS)]

    def parts(order: Tensor, number: int) -> float:
        return sum(loss_of(picked(batch, sorted(part.tolist()))) for part in order.chunk(number))

    try:
        whole, halves, quarters = (parts(orders[0], number) for number in (1, 2, 4))
        noise = _ROUNDING * max(map(abs, (whole, halves, quarters)))
        # A sum over samples is the same for all parts together, and what no sample changes comes with each.
        if not abs((quarters - whole) - 3 * (halves - whole)) > noise:
            return False
        again = parts(orders[0], 1)
        sums = np.array([halves, *(parts(order, 2) for order in orders[1:])])
    except Exception:  # noqa: BLE001  a user's code may refuse a size in any way
        return False
    if not abs(whole - again) <= noise:  # draws of its own move it
        return False
    return all(abs(off.mean()) > _SURELY * off.std(ddof=1) for off in (whole - sums, whole - sums / 2))


def takes_neighbors(program: ExportedProgram, samples: int) -> bool:
    """Whether an input beside the features of as many nodes says which of them are neighbors: a square."""
    inputs = [node for node in inputs_of(program) if not node.name.startswith("target")]
    shapes = [_fixed(node.meta["val"]) for node in inputs]
    rows = (samples, None)  # what nothing else fixes is open
    tables = [shape for shape in shapes if len(shape) > 1 and shape[0] in rows]
    return len(tables) > 1 and any(shape[1:] == (samples,) for shape in tables)


def inputs_of(program: ExportedProgram) -> Iterator[fx.Node]:
    """The placeholders of the tensors that a network is called with."""
    names = {
        spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT
    }
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and isinstance(node.meta.get("val"), Tensor):
            yield node


def _tensors(program: ExportedProgram) -> Iterator[tuple[str, Tensor]]:
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            yield node.name, value


def _of_samples(program: ExportedProgram) -> set[object]:
    """What the graph calls numbers of samples: the open first sizes of its inputs."""
    sizes = (size for node in inputs_of(program) for size in node.meta["val"].shape[:1])
    return {symbol for size in sizes for symbol in _symbols(size)}


def _along_samples(value: Tensor, other: Tensor, symbols: set[object]) -> int:
    """Axes that have another size with more samples, or an open one that is of them."""
    if value.dim() != other.dim():
        return 0
    pairs = zip(_fixed(value), _fixed(other), strict=True)
    differs = (None not in (n, m) and n != m for n, m in pairs)
    is_open = (not symbols.isdisjoint(_symbols(size)) for size in value.shape)
    return sum(map(operator.or_, differs, is_open))


def _fixed(value: Tensor) -> tuple[int | None, ...]:
    """The sizes of a tensor, None for one that is open: to compare that with a number would close it."""
    sizes: list[int | torch.SymInt] = list(value.shape)
    # Some that look open stand for one number.
    return tuple(size.node.maybe_as_int() if isinstance(size, torch.SymInt) else size for size in sizes)


def _symbols(size: int | torch.SymInt) -> frozenset[object]:
    return frozenset(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else _NAMELESS
