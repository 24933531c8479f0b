"""Pruning analysis on request: tensors and statistics go in, masks by parameter name come out."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray, FloatArray
from esper.batches import HeldOut
from esper.checkpoint import FileRef
from esper.cost import Origin
from esper.elesh import AnalysisSettings, Case, DataRef, OfflineAnalyst, encode_data
from esper.emrakul.cycle import Coordinator, CoordinatorState, Cycle, CycleOutcome, Status
from esper.emrakul.plan import floors
from esper.emrakul.request.aggregation import Statistics, aggregate
from esper.emrakul.schedule import Schedule
from esper.emrakul.settings import Settings
from esper.errors import EvidenceError
from esper.urabrask import Settings as ValidationSettings
from esper.workers import WorkerPool

ImportanceStats = Mapping[str, Mapping[str, Any]]
"""By source (a rank, a seed): `samples`, and `scores`, one array per group name, one number per unit."""


class OfflinePruning:
    """Analyzes tensors of one network whenever it is asked to, in worker processes that it can stop.

    Every request is one epoch of the schedule. The tensors are analyzed as they are given; nothing of the
    caller's is changed. Units that an accepted mask removes count as removed from then on.

    Source: spec 000, section 6.1 (`OfflinePruningAnalyzer`).

    Attributes:
        keep: units that are left, shape [units].
        epoch: requests so far.
        state: what the coordinator remembers.
        outcome: how the last request ended, in full.
    """

    def __init__(
        self,
        twin: Twin,
        anatomy: Anatomy,
        sample: Any,
        held_out: HeldOut,
        settings: Settings,
        pool: Callable[[], WorkerPool],
        *,
        weights: Mapping[str, float],
        analysis: AnalysisSettings | None = None,
        validation: ValidationSettings | None = None,
        epochs: int | None = None,
    ) -> None:
        """Describes the network.

        Args:
            twin: the network with its loss.
            anatomy: its units.
            sample: one batch.
            held_out: batches to analyze with and to judge by.
            settings: target or stages, floors, budget.
            pool: opens the workers of one request; they end with it.
            weights: of `taylor` (what the statistics say) and `magnitude` in the screen.
            analysis: sizes of tasks.
            validation: how strict the validator is.
            epochs: planned number of requests.
        """
        self.keep: BoolArray = np.ones(anatomy.num_units, np.bool_)
        self.epoch = 0
        self.state = CoordinatorState()
        self.outcome: CycleOutcome | None = None
        self._twin = twin.to_bytes()
        self._anatomy = anatomy
        self._data = encode_data(sample, held_out)
        self._settings = settings
        self._schedule = Schedule(settings, epochs)
        self._origin = Origin.of(anatomy)
        self._pool = pool
        self._weights = dict(weights)
        self._analysis = analysis or AnalysisSettings()
        self._validation = validation or ValidationSettings()

    async def analyze_and_prune(
        self,
        importance_stats: ImportanceStats,
        model_state: Mapping[str, Tensor],
        timeout_seconds: float = 300,
    ) -> dict[str, Any]:
        """Analyzes, plans and validates within `timeout_seconds`; the event loop goes on meanwhile.

        At the deadline, and when the awaiting task is canceled, the workers are killed.

        Args:
            importance_stats: what each source measured; see `ImportanceStats`.
            model_state: the network's tensors by name.
            timeout_seconds: for everything.

        Returns:
            `success`: the analysis came to its end (also where it decided to remove nothing). `masks`: bool
            tensors by parameter name, True stays, on the parameter's device; empty unless a plan was
            accepted. `strategy`: what was followed. `parameters_analyzed`, `parameters_pruned`: how many
            there are, and how many the masks mark. `safety_validation`: a validator has measured it and said
            go. `error`: why there is no success, or None. Beside them `reason`, `idempotency_key`,
            `analysis_time_seconds` and `worker_count`.
        """
        started = time.monotonic()
        self.epoch += 1
        pool = self._pool()
        try:
            result = await asyncio.to_thread(
                self._run, pool, importance_stats, dict(model_state), timeout_seconds
            )
        finally:
            pool.close()  # a canceled request ends here, and its thread with the tasks that it waits for
        return {
            **result,
            "analysis_time_seconds": time.monotonic() - started,
            "worker_count": pool.num_workers,
        }

    def _run(
        self, pool: WorkerPool, stats: ImportanceStats, state: dict[str, Tensor], seconds: float
    ) -> dict[str, Any]:
        analyzed = self._anatomy.parameters(self.keep)
        nothing = {"masks": {}, "parameters_analyzed": analyzed, "parameters_pruned": 0}
        try:
            scores = self._scores(stats)
        except EvidenceError as error:
            why = {"success": False, "error": str(error), "reason": str(error), "strategy": "refused"}
            return {**nothing, **why, "safety_validation": False, "idempotency_key": None}
        with tempfile.TemporaryDirectory(prefix="esper-") as directory:
            outcome = self._cycle(pool, self._case(Path(directory), state, scores), seconds)
        has_ended = outcome.status is not Status.FAILED and not outcome.is_late
        result = {
            **nothing,
            "success": has_ended,
            "strategy": outcome.allowance.stage,
            "safety_validation": outcome.verdict is not None and outcome.verdict.is_accepted,
            "error": None if has_ended else outcome.reason,
            "reason": outcome.reason,
            "idempotency_key": str(outcome.key),
        }
        if outcome.status is not Status.ACCEPTED or outcome.plan is None:
            return result
        self.keep = outcome.plan.keep
        left = self._anatomy.parameters(self.keep)
        masks = parameter_masks(self._anatomy, self.keep, state)
        return {**result, "masks": masks, "parameters_pruned": analyzed - left}

    def _scores(self, stats: ImportanceStats) -> FloatArray:
        sources = [
            Statistics(
                {name: np.asarray(scores, np.float64) for name, scores in found["scores"].items()},
                int(found["samples"]),
            )
            for found in stats.values()
        ]
        return aggregate(self._anatomy, sources, min_samples=self._analysis.min_optimizer_steps).scores

    def _cycle(self, pool: WorkerPool, case: Case, seconds: float) -> CycleOutcome:
        budget = self._settings.budget.model_copy(update={"deadline_seconds": seconds})
        settings = self._settings.model_copy(update={"budget": budget})
        analyst = OfflineAnalyst(
            pool=pool,
            case=case,
            anatomy=self._anatomy,
            keep=self.keep,
            allowed=np.ones(self._anatomy.num_units, np.bool_),
            weights=self._weights,
            settings=self._analysis,
            validation=self._validation,
            floors=floors(self._anatomy, settings, self._origin),
            clock=time.monotonic,
            deadline_seconds=seconds,
        )
        coordinator = Coordinator(settings, self._schedule, self._origin, time.monotonic, self.state)
        self.outcome = coordinator.run_cycle(
            Cycle(self.epoch, self._anatomy, self.keep, case.model.blake3, analyst.id),
            screen=analyst.screen,
            analyze=analyst.analyze,
            validate=analyst.validate,
        )
        self.state = coordinator.state
        return self.outcome

    def _case(self, directory: Path, state: Mapping[str, Tensor], scores: FloatArray) -> Case:
        tree, tensors = self._data
        own = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        files = {
            "twin": self._twin,
            "anatomy": json.dumps(self._anatomy.to_json()).encode(),
            "model": safetensors.torch.save(own),
            "batches": tree,
            "samples": safetensors.torch.save(tensors),
        }
        refs = {name: _written(directory / name, content) for name, content in files.items()}
        return Case(
            twin=refs["twin"],
            anatomy=refs["anatomy"],
            model=refs["model"],
            optimizer=None,
            tracked=tuple(scores.tolist()) if np.isfinite(scores).any() else None,
            data=DataRef(refs["batches"], refs["samples"]),
            masked=tuple(np.flatnonzero(~self.keep).tolist()),
        )


def parameter_masks(anatomy: Anatomy, keep: BoolArray, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bool masks of the parameters that units of the network own, True where a value stays.

    Args:
        anatomy: the network.
        keep: units that are left, shape [units].
        state: its tensors, which give shape and device; aliases of one parameter get the same mask.
    """
    names = {info.name: (info.name, *info.aliases) for info in anatomy.tensors}
    masks: dict[str, Tensor] = {}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        for alias in names[name]:
            if alias in state:
                like = state[alias]
                mask = masks.setdefault(alias, torch.ones(like.shape, dtype=torch.bool, device=like.device))
                mask.index_fill_(axis, torch.from_numpy(gone).to(like.device), False)
    return masks


def _written(path: Path, content: bytes) -> FileRef:
    path.write_bytes(content)
    return FileRef(path, len(content), blake3.blake3(content).hexdigest())
