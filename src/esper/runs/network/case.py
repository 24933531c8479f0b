"""What an analysis of a saved run reads, and who carries it out."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping

import numpy as np
from torch import Tensor

from esper.arrays import BoolArray, FloatArray
from esper.checkpoint import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    TREE_FILE,
    CheckpointCatalog,
    CheckpointRef,
    load_tensors,
)
from esper.config import Config
from esper.elesh import Case, DataRef, Errands, OfflineAnalyst
from esper.emrakul.plan import Situation, floors
from esper.importance.tracker import TrackedEvidence
from esper.workers import WorkerPool

ANATOMY_FILE = "anatomy.json"
"""The file of a checkpoint that holds the anatomy."""
CRITERION_FILE = "criterion.safetensors"
"""The file of a checkpoint that holds the tensors of a loss that has any, by the twin's names."""


def data_of(catalog: CheckpointCatalog, checkpoint: CheckpointRef) -> DataRef:
    """Where the sample and the held-out batches of a checkpoint's run lie."""
    return DataRef(catalog.blob(checkpoint, "batches"), catalog.blob(checkpoint, "samples"))


def criterion_of(checkpoint: CheckpointRef) -> dict[str, Tensor]:
    """The tensors of the loss that a checkpoint was trained with, by the twin's names; most have none."""
    return load_tensors(checkpoint.file(CRITERION_FILE)) if CRITERION_FILE in checkpoint.files else {}


def case_of(
    catalog: CheckpointCatalog,
    checkpoint: CheckpointRef,
    keep: BoolArray,
    tracked: TrackedEvidence,
    still: Collection[str] = (),
) -> Case:
    """What an analysis needs to know about a checkpoint of a session.

    Args:
        catalog: where its twin and its samples lie.
        checkpoint: a verified checkpoint.
        keep: units that are not masked in it: shape [units].
        tracked: what training has sampled until it was saved.
        still: running statistics that training does not move, by name.
    """
    return Case(
        twin=catalog.blob(checkpoint, "twin"),
        anatomy=checkpoint.file(ANATOMY_FILE),
        model=checkpoint.file(MODEL_FILE),
        optimizer=DataRef(checkpoint.file(TREE_FILE), checkpoint.file(OPTIMIZER_FILE)),
        tracked=_measured(tracked.fisher),
        data=data_of(catalog, checkpoint),
        masked=tuple((~keep).nonzero()[0].tolist()),
        history=_measured(tracked.history),
        twin_samples=tracked.twin_samples,
        twin_flops=tracked.twin_flops,
        criterion=checkpoint.file(CRITERION_FILE) if CRITERION_FILE in checkpoint.files else None,
        still=tuple(sorted(still)),
    )


def analyst_of(
    case: Case,
    situation: Situation,
    weights: Mapping[str, float],
    allowed: BoolArray,
    config: Config,
    pool: WorkerPool,
    enough_seconds: float = math.inf,
) -> OfflineAnalyst:
    """The analyst of one checkpoint.

    Args:
        case: its files.
        situation: its network.
        weights: of every signal in the screen.
        allowed: units that the network's own code allows to be cut, shape [units].
        config: of the run.
        pool: where tasks run.
        enough_seconds: what measuring layers as they get narrower should take of each worker.
    """
    pruning = config.pruning
    return OfflineAnalyst(
        errands=Errands(pool, config.analysis.memory_bytes, time.monotonic),
        case=case,
        anatomy=situation.anatomy,
        keep=situation.keep,
        allowed=allowed,
        weights=weights,
        settings=config.analysis,
        validation=config.validation,
        floors=floors(situation, pruning),
        reconstruct=pruning.recovery.reconstruct,
        together=pruning.measures_together,
        deadline_seconds=pruning.budget.deadline_seconds * pruning.budget.analysis_fraction,
        enough_seconds=enough_seconds,
    )


def _measured(scores: FloatArray) -> tuple[float, ...] | None:
    """The scores as plain numbers; None where not one unit was measured."""
    return tuple(scores.tolist()) if np.isfinite(scores).any() else None
