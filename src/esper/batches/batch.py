"""One batch as a data loader yields it: taken apart, moved to a device, cut, joined, repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.batches.likeness import leaves_of


def on_device(value: Any, device: torch.device | str, *, copy: bool = False) -> Any:
    """The same with every tensor on `device`; as a `copy` nothing else owns it and no graph leads to it."""
    return _mapped(value, lambda leaf: (leaf.detach() if copy else leaf).to(device, copy=copy))


def device_of(model: nn.Module) -> torch.device:
    """Where a network's first parameter is; the CPU for a network without."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def beside(model: nn.Module, value: Any) -> Any:
    """The same with every tensor where a network is."""
    return on_device(value, device_of(model))


def samples(batch: Any) -> int:
    """How many samples a batch holds."""
    return max(sizes_of(batch), default=1)


def sizes_of(batch: Any) -> set[int]:
    """What the tensors of a batch have along their first axis; one number where it is an axis of samples."""
    return {leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}


def varying_axes(sample: Any, batches: Sequence[Any], model: nn.Module) -> frozenset[tuple[int, int]]:
    """Axes along which batches have another size than `sample`, such as texts padded to the longest of each.

    Args:
        sample: one batch, `(input, target)`.
        batches: others; one that is not built alike does not count.
        model: whose inputs they are.

    Returns:
        The number of the tensor among the leaves of `split_sample`, and the number of its axis. An axis of
        samples, the first one that all tensors share, is never among them.
    """
    ours, first = _shapes(sample, model), 1 if len(sizes_of(sample)) == 1 else 0
    found = set()
    for theirs in (_shapes(batch, model) for batch in batches):
        if _dims(ours) != _dims(theirs):
            continue
        for leaf, (path, mine) in enumerate(ours.items()):
            found |= {(leaf, axis) for axis in range(first, len(mine)) if mine[axis] != theirs[path][axis]}
    return frozenset(found)


def _dims(shapes: Mapping[Any, tuple[int, ...]]) -> dict[Any, int]:
    return {path: len(shape) for path, shape in shapes.items()}


def _shapes(batch: Any, model: nn.Module) -> dict[Any, tuple[int, ...]]:
    """Of every leaf, by its path; () for what is no tensor."""
    leaves = leaves_of(batch, model).items()
    return {path: tuple(leaf.shape) if isinstance(leaf, Tensor) else () for path, leaf in leaves}


def rows_of(batch: Any, start: int, stop: int) -> Any:
    """The samples from `start` to `stop`, as views."""
    return _mapped(batch, lambda leaf: leaf[start:stop] if leaf.dim() else leaf)


def picked(batch: Any, numbers: Sequence[int]) -> Any:
    """A batch of the samples of these numbers."""
    return _mapped(batch, lambda leaf: leaf[list(numbers)] if leaf.dim() else leaf)


def divided(batch: Any, size: int, *, can_split: bool = True) -> list[Any]:
    """Parts of `size` samples, as views; a rest of one sample joins its neighbor.

    Exported programs may assume at least two samples. A batch stays whole where its tensors do not agree on a
    number of samples, or where it `can_split` no further.
    """
    sizes = sizes_of(batch)
    if not can_split or len(sizes) != 1:
        return [batch]
    total = sizes.pop()
    # An empty batch is one part.
    starts = [start for start in range(0, total or 1, size) if total - start > 1 or start == 0]
    return [rows_of(batch, *ends) for ends in zip(starts, [*starts[1:], total], strict=True)]


def first_samples(batches: Sequence[Any], count: int, *, can_split: bool = True) -> list[Any]:
    """As many batches as hold the first `count` samples; the last one cut short where it can be split."""
    taken: list[Any] = []
    for batch in batches:
        if count <= 0:
            break
        is_cut = can_split and samples(batch) > count >= 2 and len(sizes_of(batch)) == 1
        taken.append(rows_of(batch, 0, count) if is_cut else batch)
        count -= samples(batch)
    return taken


def merged(batches: Sequence[Any], size: int) -> list[Any]:
    """The same samples in fewer batches of up to `size` samples, where the batches are alike."""
    parts: list[Any] = []
    for batch in batches:
        joined = None
        if parts and samples(parts[-1]) + samples(batch) <= size:
            joined = _joined(parts[-1], batch)
        if joined is None:
            parts.append(batch)
        else:
            parts[-1] = joined
    return parts


def resized(batches: Sequence[Any], size: int) -> list[Any]:
    """The same samples in batches of exactly `size`, as a network needs that works with no other number.

    Batches that have no common first axis, or have this size, stay as they are; samples that fill no batch
    are left out.
    """
    if all(sizes_of(batch) == {size} or len(sizes_of(batch)) != 1 for batch in batches):
        return list(batches)
    parts = [rows_of(batch, n, n + 1) for batch in batches for n in range(samples(batch))]
    return [batch for batch in merged(parts, size) if samples(batch) == size]


def repeated(batch: Any, size: int) -> Any:
    """A batch of exactly `size` samples, made of these as often as it takes, in their order."""

    def grown(leaf: Tensor) -> Tensor:
        if not leaf.dim():
            return leaf
        times = -(-size // leaf.shape[0])
        return leaf.repeat_interleave(times, 0)[:size]

    return _mapped(batch, grown)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return pytree.tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, value)


def _joined(first: Any, second: Any) -> Any | None:
    """Both batches as one, or None where they differ in anything but the number of samples."""
    ours, spec = pytree.tree_flatten(first)
    theirs, other = pytree.tree_flatten(second)
    if spec != other or not all(map(_alike, ours, theirs)):
        return None
    pairs = zip(ours, theirs, strict=True)
    joined = [torch.cat([a, b]) if isinstance(a, Tensor) and a.dim() else a for a, b in pairs]
    return pytree.tree_unflatten(joined, spec)


def _alike(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return not isinstance(a, Tensor) and not isinstance(b, Tensor) and bool(a == b)
    if a.dim() == 0 or b.dim() == 0:
        return a.dim() == b.dim() and torch.equal(a, b)
    return a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
