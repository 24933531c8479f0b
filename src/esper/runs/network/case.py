"""Where the parts of a saved run lie that an analysis reads."""

from __future__ import annotations

import numpy as np

from esper.arrays import BoolArray, FloatArray
from esper.checkpoint import MODEL_FILE, OPTIMIZER_FILE, TREE_FILE, CheckpointCatalog, CheckpointRef
from esper.elesh import Case, DataRef
from esper.importance.tracker import TrackedEvidence

ANATOMY_FILE = "anatomy.json"
"""The file of a checkpoint that holds `Anatomy.to_json`."""


def data_of(catalog: CheckpointCatalog, checkpoint: CheckpointRef) -> DataRef:
    """Where the sample and the held-out batches of a checkpoint's run lie."""
    return DataRef(catalog.blob(checkpoint, "batches"), catalog.blob(checkpoint, "samples"))


def case_of(
    catalog: CheckpointCatalog, checkpoint: CheckpointRef, keep: BoolArray, tracked: TrackedEvidence
) -> Case:
    """What an analysis needs to know about a checkpoint of a session.

    Args:
        catalog: where its twin and its samples lie.
        checkpoint: a verified checkpoint.
        keep: units that are not masked in it: shape [units].
        tracked: what training has sampled until it was saved.
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
    )


def _measured(scores: FloatArray) -> tuple[float, ...] | None:
    """The scores as plain numbers; None where not one unit was measured."""
    return tuple(scores.tolist()) if np.isfinite(scores).any() else None
