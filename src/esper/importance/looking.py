"""A look at the twin before anything is ablated: as many held-out samples as the work allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray
from esper.importance.twin_statistics import activation_frequency, loss_changes

_FEWEST_SAMPLES = 8
_PASSES = 6
"""Forward passes that one sample costs: it comes twice, and a backward pass is two forward ones."""


def affordable_samples(anatomy: Anatomy, samples: int, flops: float) -> int:
    """How many of at most `samples` can be looked at for `flops` of work; 0 where not even eight can."""
    count = min(samples, int(flops / max(_PASSES * anatomy.flops(), 1.0)))
    return count if count >= _FEWEST_SAMPLES else 0


def look_at_twin(
    twin: Twin,
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    batches: Sequence[Any],
    *,
    samples: int,
    with_frequency: bool,
) -> dict[str, FloatArray]:
    """Signals of every unit, by name, as `combine` takes them: shape [units] each.

    Args:
        twin: The network with its loss.
        anatomy: Its units.
        state: Its tensors, with what is masked already set to zero.
        batches: Held-out batches that the twin can take.
        samples: How many samples to use at most.
        with_frequency: Whether to measure how often units are active too.

    Returns:
        `twin`: the rise of the loss without each unit that its slopes predict, and `activation_frequency`
        if asked for; nothing where there are not even eight samples.
    """
    few = _first(batches, samples, can_split=twin.is_batch_dynamic)
    if sum(map(_size, few)) < _FEWEST_SAMPLES:
        return {}
    found = {"twin": loss_changes(twin, anatomy, state, few).predicted()}
    if with_frequency:
        found["activation_frequency"] = activation_frequency(twin, anatomy, state, few)
    return found


def _first(batches: Sequence[Any], count: int, *, can_split: bool) -> list[Any]:
    """The first `count` samples; whole batches only where the twin takes no others."""
    taken: list[Any] = []
    for batch in batches:
        size = _size(batch)
        if size <= count:
            taken.append(batch)
        elif can_split and count >= 2:
            taken.append(pytree.tree_map(lambda leaf, n=count: _rows(leaf, n), batch))
        else:
            break
        count -= size
        if count <= 0:
            break
    return taken


def _size(batch: Any) -> int:
    """How many samples a batch holds; 1 where its tensors do not agree on a number."""
    sizes = {leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else 1


def _rows(leaf: Any, count: int) -> Any:
    return leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() else leaf
