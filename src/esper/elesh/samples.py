"""Held-out batches: a few are kept, one part to analyze with and another to validate on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.elesh.settings import AnalysisSettings
from esper.errors import ConfigError

_CALIBRATION_SHARE = 0.4
"""Where samples are few, the larger part judges: a wrong choice is caught there, a wrong judgement nowhere."""


@dataclass(frozen=True)
class HeldOut:
    """Batches that training never sees: `calibration` to analyze with, `validation` to judge by. No sample in both."""

    calibration: tuple[Any, ...]
    validation: tuple[Any, ...]


def hold_out(probe: Iterable[Any], settings: AnalysisSettings) -> HeldOut:
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
    total = sum(map(samples, batches))
    if len(batches) < 2:
        raise ConfigError(
            f"probe yields {total} sample(s), which is too few to analyze with one part and judge by the other. Give a "
            f"loader of held-out batches; {wanted} samples are used if there are as many."
        )
    enough = -(-settings.calibration_samples // settings.batch_samples)
    cut = min(enough, max(round(_CALIBRATION_SHARE * len(batches)), 1), len(batches) - 1)
    return HeldOut(tuple(batches[:cut]), tuple(batches[cut:]))


def samples(batch: Any) -> int:
    """How many samples a batch holds."""
    return max(
        (leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()),
        default=1,
    )


def _split(batch: Any, size: int) -> list[Any]:
    """Smaller batches; a rest of one sample is left out, because exported programs may assume at least two."""
    batch = pytree.tree_map(_to_cpu, tuple(batch) if isinstance(batch, list) else batch)
    sizes = {leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    if len(sizes) != 1:
        return [batch]
    total = sizes.pop()

    def part(start: int) -> Any:
        def cut(leaf: Any) -> Any:
            return leaf[start : start + size].clone() if isinstance(leaf, Tensor) and leaf.dim() else leaf

        return pytree.tree_map(cut, batch)

    return [part(start) for start in range(0, total, size) if total - start > 1]


def _to_cpu(leaf: Any) -> Any:
    return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf


def merged(batches: Sequence[Any], size: int) -> list[Any]:
    """The same samples in fewer batches of about `size` samples, where the batches are alike."""
    parts: list[Any] = []
    for batch in batches:
        if parts and samples(parts[-1]) + samples(batch) <= size:
            parts[-1] = pytree.tree_map(_joined, parts[-1], batch)
        else:
            parts.append(batch)
    return parts


def _joined(first: Any, second: Any) -> Any:
    is_batched = isinstance(first, Tensor) and first.dim() and first.shape[1:] == second.shape[1:]
    return torch.cat([first, second]) if is_batched else first
