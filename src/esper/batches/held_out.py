"""Held-out batches: a few are kept, one part to analyze with and another to validate on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from esper.batches.batch import divided, first_samples, on_device, rows_of, samples, sizes_of
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


def first_batches(probe: Iterable[Any], settings: SampleCounts) -> list[Any]:
    """As many batches of `probe` as hold the samples that `hold_out` keeps, as copies on the CPU."""
    batches: list[Any] = []
    wanted = settings.calibration_samples + settings.held_out_samples
    for batch in probe:
        batches.append(on_device(batch, "cpu", copy=True))
        wanted -= samples(batch)
        if wanted <= 0 and len(batches) > 1:  # one may be a whole
            break
    return batches


def hold_out(probe: Iterable[Any], settings: SampleCounts, *, whole: bool = False) -> HeldOut:
    """Keeps the first samples of `probe` on the CPU, in calibration-sized batches.

    Args:
        probe: batches as the data loader yields them, `(input, target)`.
        settings: how many samples for what.
        whole: keep batches as they come, since their samples meet in the loss.

    Raises:
        ConfigError: there is no batch, or too few samples for both parts.
    """
    batches: list[Any] = []
    wanted = settings.calibration_samples + settings.held_out_samples
    for batch in probe:
        parts = (
            [on_device(_plain(batch), "cpu", copy=True)] if whole else _split(batch, settings.batch_samples)
        )
        batches.extend(parts)
        if sum(map(samples, batches)) >= wanted and len(batches) > 1:
            break
    batches = batches[: max(len(first_samples(batches, wanted, can_split=False)), 2)]
    if len(batches) < 2 and (whole or any(len(sizes_of(batch)) > 1 for batch in batches)):
        raise ConfigError(
            f"probe yields {len(batches)} batch(es), and two are needed: one to analyze with and another to "
            "judge by. The samples of a batch meet, as in a similarity matrix or a graph of nodes and edges, "
            "so that a batch cannot be divided. Give more batches; of one graph, the same graph with labels "
            "that are masked (-100) in two ways."
        )
    if len(batches) < 2:
        total = sum(map(samples, batches))
        raise ConfigError(
            f"probe yields {len(batches)} usable batch(es) of {total} sample(s), which is too few to analyze "
            "with one part and judge by the other. Give a loader of held-out batches of two samples or more; "
            f"{wanted} samples are used if there are as many."
        )
    enough = -(-settings.calibration_samples // (samples(batches[0]) if whole else settings.batch_samples))
    cut = min(enough, max(round(_CALIBRATION_SHARE * len(batches)), 1), len(batches) - 1)
    return HeldOut(tuple(batches[:cut]), tuple(batches[cut:]))


def _split(batch: Any, size: int) -> list[Any]:
    """Batches of their own of up to `size` samples on the CPU; a rest of one sample is left out."""
    batch = _plain(batch)
    parts = divided(batch, size)
    if len(sizes_of(batch)) == 1:
        parts = [rows_of(part, 0, size) for part in parts if samples(part) > 1]
    return [on_device(part, "cpu", copy=True) for part in parts]


def _plain(batch: Any) -> Any:
    return tuple(batch) if isinstance(batch, list) else batch
