"""A checkpoint of a session as it lies on disk, and the cycle that its run would begin with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.checkpoint import CheckpointCatalog, CheckpointRef, open_tensors
from esper.config import Config
from esper.cost import Origin
from esper.elesh import Case, read_optimizer
from esper.emrakul import Schedule
from esper.emrakul.cycle import Coordinator, CoordinatorState, Cycle, CycleOutcome
from esper.emrakul.plan import Situation
from esper.errors import CheckpointError
from esper.importance import TrainingPhase, moments_from_state
from esper.importance.tracker import TrackedEvidence
from esper.leyline import decode
from esper.runs.network.case import ANATOMY_FILE, analyst_of, case_of
from esper.runs.network.state import read_state
from esper.workers import WorkerPool


@dataclass(frozen=True, eq=False)
class Stored:
    """A checkpoint of a session, with what it remembers."""

    checkpoint: CheckpointRef
    parts: Mapping[str, Any]
    """The states of the run's parts, by name."""
    config: Config
    keep: BoolArray
    tracked: TrackedEvidence
    case: Case

    @classmethod
    def of(cls, catalog: CheckpointCatalog, checkpoint: CheckpointRef) -> Stored:
        missing = {"twin", "batches", "samples"} - set(checkpoint.manifest.blobs)
        if missing or ANATOMY_FILE not in checkpoint.files:
            raise CheckpointError(
                f"{checkpoint.path} was not saved by a session: it lacks {', '.join(sorted(missing))}. Name "
                "a run that was trained with esper.attach."
            )
        parts = read_state(checkpoint)
        keep = np.asarray(parts["masks"]["keep"], np.bool_)
        config = Config.model_validate_json(parts["terms"]["config"])
        phase = TrainingPhase.at(checkpoint.epoch, parts["terms"]["epochs_planned"])
        tracked = TrackedEvidence.from_state(parts["tracker"], keep.size, config.importance, phase)
        case = case_of(catalog, checkpoint, keep, tracked)
        return cls(checkpoint, parts, config, keep, tracked, case)

    def why_no_moments(self) -> str:
        """Why the optimizer says nothing of the units, and what the screen rests on instead."""
        held = self.case.optimizer
        states, groups = ({}, {}) if held is None else read_optimizer(held, open_tensors(held.tensors))
        least, rules = self.config.analysis.min_optimizer_steps, self.config.importance
        why = "The optimizer keeps no second moments, as SGD does not, or has made no step yet"
        if moments_from_state(states, groups) is not None:
            steps = max(int(state.get("step", 0)) for state in states.values())
            why = f"The optimizer has made {steps} of the {least} steps that its second moments need to count"
        if self.case.tracked is not None:
            return f"{why}: the screen rests on weight x gradient as training sampled it (tracker)."
        enough = f"{rules.min_sampled_steps} steps that stand for {rules.min_importance_samples}"
        return f"{why}, and no unit was sampled often enough in training ({enough}): nothing is ranked."


def next_cycle(stored: Stored, anatomy: Anatomy, pool: WorkerPool) -> CycleOutcome:
    """The cycle that the run would begin with this checkpoint; its outcome is committed nowhere."""
    settings, keep, epoch = stored.config, stored.keep, stored.checkpoint.epoch
    remembered, terms = stored.parts.get("coordinator"), stored.parts["terms"]
    epochs = terms["epochs_planned"]
    state = CoordinatorState() if remembered is None else decode(CoordinatorState, remembered)
    situation = Situation(anatomy, keep, decode(Origin, terms["origin"]))
    schedule = Schedule(settings.pruning, epochs)
    allowance = schedule.allowed(epoch, state.schedule, situation.removed_fraction(schedule.cost))
    allowed = ~anatomy.inside_removed(keep)
    analyst = analyst_of(stored.case, situation, stored.tracked.weights, allowed, settings, pool)
    coordinator = Coordinator(settings.pruning, time.monotonic, state, settings.importance.thresholds)
    cycle = Cycle(epoch, situation, stored.checkpoint.digest, epochs)
    return coordinator.run_cycle(cycle, allowance, analyst)
