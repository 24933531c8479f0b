"""Held-out batches: a few are kept, one part to analyze with and another to validate on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.errors import ConfigError

_CALIBRATION_SHARE = 0.4
"""Where samples are few, the larger part judges: a wrong choice is caught there, a wrong verdict nowhere."""


class SampleCounts(Protocol):
    """How many samples are kept for what; the settings of the analysis are one."""

    @property
    def calibration_samples(self) -> int: ...

    @property
    def held_out_samples(self) -> int: ...

    @property
    def batch_samples(self) -> int: ...


@dataclass(frozen=True)
class HeldOut:
    """Batches that training never sees: some to analyze with, others to judge by. No sample is in both."""

    calibration: tuple[Any, ...]
    validation: tuple[Any, ...]


def hold_out(probe: Iterable[Any], settings: SampleCounts) -> HeldOut:
    """Keeps the first samples of `probe` on the CPU, in calibration-sized batches.

    Args:
        probe: batches as the data loader yields them, `(input, target)`.
        settings: how many samples for what.

    Raises:
        ConfigError: there is no batch, or too few samples for both parts.
    """
    batches: list[Any] = []
    wanted = settings.calibration_samples + settings.held_out_samples
    for batch in probe:
        batches.extend(_split(batch, settings.batch_samples))
        if sum(map(samples, batches)) >= wanted:
            break
    batches = _first(batches, wanted)
    if len(batches) < 2:
        total = sum(map(samples, batches))
        raise ConfigError(
            f"probe yields {len(batches)} usable batch(es) of {total} sample(s), which is too few to analyze "
            "with one part and judge by the other. Give a loader of held-out batches of two samples or more; "
            f"{wanted} samples are used if there are as many."
        )
    enough = -(-settings.calibration_samples // settings.batch_samples)
    cut = min(enough, max(round(_CALIBRATION_SHARE * len(batches)), 1), len(batches) - 1)
    return HeldOut(tuple(batches[:cut]), tuple(batches[cut:]))


def _first(batches: Sequence[Any], wanted: int) -> list[Any]:
    """As many batches as it takes for the wanted number of samples."""
    total, taken = 0, []
    for batch in batches:
        if total >= wanted:
            break
        taken.append(batch)
        total += samples(batch)
    return taken


def samples(batch: Any) -> int:
    """How many samples a batch holds."""
    return max(
        (leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()),
        default=1,
    )


def _split(batch: Any, size: int, least: int = 2) -> list[Any]:
    """Smaller batches; a rest of one sample is left out: exported programs may assume at least two."""
    batch = pytree.tree_map(_to_cpu, tuple(batch) if isinstance(batch, list) else batch)
    sizes = _sizes(batch)
    if len(sizes) != 1:
        return [batch]
    total = sizes.pop()
    return [
        pytree.tree_map(partial(_rows, start=start, stop=start + size), batch)
        for start in range(0, total, size)
        if total - start >= least
    ]


def _rows(leaf: Any, start: int, stop: int) -> Any:
    return leaf[start:stop].clone() if isinstance(leaf, Tensor) and leaf.dim() else leaf


def _sizes(batch: Any) -> set[int]:
    """What the tensors of a batch have along their first axis."""
    return {leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf


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
    if all(_sizes(batch) == {size} or len(_sizes(batch)) != 1 for batch in batches):
        return list(batches)
    parts = [part for batch in batches for part in _split(batch, 1, least=1)]
    return [batch for batch in merged(parts, size) if samples(batch) == size]


def repeated(batch: Any, size: int) -> Any:
    """A batch of exactly `size` samples, made of these as often as it takes."""

    def grown(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0:
            return leaf
        times = -(-size // leaf.shape[0])
        return leaf.repeat(times, *[1] * (leaf.dim() - 1))[:size]

    return pytree.tree_map(grown, batch)


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
