"""Pruning on request, as the original design asks for it: statistics and tensors in, masks by name out."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray
from esper.checkpoint import CheckpointCatalog, CheckpointRef, FileRef, file_pieces
from esper.elesh import open_case
from esper.emrakul.cycle import CycleStatus
from esper.errors import EvidenceError
from esper.runs.network.stored import Stored, next_cycle
from esper.workers import WorkerPool


class OfflinePruning:
    """Analyzes tensors of the network of one checkpoint, by the cycle that its run would begin there.

    Nothing of the run or of the caller's is changed. Source: spec 000, section 6.1.
    """

    def __init__(
        self, catalog: CheckpointCatalog, checkpoint: CheckpointRef, pool: Callable[[], WorkerPool]
    ) -> None:
        """Takes what `esper.runs.checkpoint_at` returns, and what opens the workers of one request."""
        self._stored, self._pool = Stored.of(catalog, checkpoint), pool

    async def analyze_and_prune(
        self,
        importance_stats: Mapping[str, Mapping[str, Any]],
        model_state: Mapping[str, Tensor],
        timeout_seconds: float = 300,
    ) -> dict[str, Any]:
        """Analyzes, plans and validates; workers die at the deadline, and when the caller is canceled.

        Args:
            importance_stats: by source (a rank, a seed) its `samples`, and `scores`: one importance per
                unit, NaN unmeasured, by group name.
            model_state: the network's tensors by name.
            timeout_seconds: for everything.

        Returns:
            `success`: the analysis came to its end, also where nothing goes. `masks`: bool tensors by
            parameter name, True stays. `strategy`, `parameters_analyzed`, `parameters_pruned`, `reason`,
            `safety_validation`: a validator has measured it and said go. `error`: why there is no success.

        Raises:
            EvidenceError: the statistics are not of this network.
        """
        pool = self._pool()
        try:
            return await asyncio.to_thread(self._run, pool, importance_stats, model_state, timeout_seconds)
        finally:
            pool.close()  # a canceled request ends here, and its thread with the tasks that it waits for

    def _run(
        self, pool: WorkerPool, stats: Mapping[str, Any], tensors: Mapping[str, Tensor], seconds: float
    ) -> dict[str, Any]:
        stored, anatomy = self._stored, open_case(self._stored.case).anatomy
        budget = stored.config.pruning.budget.model_copy(update={"deadline_seconds": seconds})
        pruning = stored.config.pruning.model_copy(update={"budget": budget})
        config = stored.config.model_copy(update={"pruning": pruning})
        scores = _joined(anatomy, stats, stored.config.analysis.min_optimizer_steps)
        with tempfile.TemporaryDirectory(prefix="esper-") as directory:
            content = b"".join(file_pieces(tensors))
            path = Path(directory, "model")
            path.write_bytes(content)
            model = FileRef(path, len(content), blake3.blake3(content).hexdigest())
            case = replace(stored.case, model=model, optimizer=None, tracked=scores, history=None)
            outcome = next_cycle(replace(stored, config=config, case=case), anatomy, pool)
        has_ended = outcome.status is not CycleStatus.FAILED and not outcome.is_late
        keep = stored.keep if outcome.mask is None else outcome.mask
        analyzed = anatomy.parameters(stored.keep)
        return {
            "success": has_ended,
            "masks": {} if outcome.mask is None else _masks(anatomy, keep, tensors),
            "strategy": outcome.allowance.stage,
            "parameters_analyzed": analyzed,
            "parameters_pruned": analyzed - anatomy.parameters(keep),
            "safety_validation": outcome.verdict is not None and outcome.verdict.is_accepted,
            "reason": outcome.reason,
            "error": None if has_ended else outcome.reason,
        }


def _joined(anatomy: Anatomy, stats: Mapping[str, Any], min_samples: int) -> tuple[float, ...] | None:
    """Means over the sources, weighted by their samples; NaN where too few stand behind a unit."""
    sums, samples = np.zeros(anatomy.num_units), np.zeros(anatomy.num_units)
    for name, source in stats.items():
        for group, scores in source["scores"].items():
            span, values = anatomy.unit_slice(anatomy.group_named(group)), np.asarray(scores, np.float64)
            if values.shape != (span.stop - span.start,) or not (np.isnan(values) | (values >= 0)).all():
                raise EvidenceError(
                    f"Source {name!r} has scores of shape {values.shape} for {group!r}; expected "
                    f"{span.stop - span.start} numbers of 0 or more, NaN where unmeasured."
                )
            known = np.isfinite(values) * source["samples"]
            sums[span] += known * np.nan_to_num(values)
            samples[span] += known
    means = np.where(samples >= max(min_samples, 1), sums / np.maximum(samples, 1), np.nan)
    return tuple(means.tolist()) if np.isfinite(means).any() else None


def _masks(anatomy: Anatomy, keep: BoolArray, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of the parameters that lose something; aliases of one parameter get the same mask."""
    names = {info.name: (info.name, *info.aliases) for info in anatomy.tensors}
    masks: dict[str, Tensor] = {}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        for alias in names[name]:
            if alias in tensors:
                like = tensors[alias]
                mask = masks.setdefault(alias, torch.ones(like.shape, dtype=torch.bool, device=like.device))
                mask.index_fill_(axis, torch.from_numpy(gone).to(like.device), False)
    return masks
