"""Stored results: what was measured and decided about a checkpoint lies beside it, found again by its key.

That goes when its checkpoint goes. What people may ask for later lies beside the run's first checkpoint too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from esper.anatomy import Anatomy
from esper.checkpoint import BASELINE, CheckpointCatalog, CheckpointRef, CheckpointStore
from esper.emrakul.cycle.coordinator import CoordinatorState, Recall
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.leyline import IdempotencyKey, decode, encode, stable_id

DECISION_FILE = "decision.json"
CYCLE_FILE = "cycle.json"


def record(anatomy: Anatomy, outcome: CycleOutcome | None, state: CoordinatorState) -> dict[str, object]:
    """What is written of any cycle."""
    return {
        "anatomy": anatomy.digest,
        "outcome": None if outcome is None else encode(outcome),
        "coordinator": encode(state),
    }


def commit_record(
    store: CheckpointStore,
    base: CheckpointRef,
    anatomy: Anatomy,
    outcome: CycleOutcome,
    state: CoordinatorState,
) -> None:
    """Stores how a cycle without a mask ended; with a mask, the same record is part of the mask commit.

    It keeps no checkpoint alive: it goes when its checkpoint goes.

    Raises:
        CheckpointError: nothing was stored.
    """
    name = f"decision-{stable_id(str(outcome.key))}"
    content = json.dumps(record(anatomy, outcome, state)).encode()
    store.commit_attachment(base, name, {DECISION_FILE: content}, pin=False)


def recall_from(store: CheckpointStore, base: CheckpointRef) -> Recall:
    """Looks for stored results beside one checkpoint; what does not verify is not found."""

    def recall(key: IdempotencyKey) -> tuple[CycleOutcome, CoordinatorState] | None:
        for attached in store.attachments(base).found:
            if DECISION_FILE not in attached.files:
                continue
            data = json.loads(attached.file(DECISION_FILE).read_bytes())
            if data["outcome"] is not None and data["outcome"]["key"] == str(key):
                state = decode(CoordinatorState, data["coordinator"])
                return decode(CycleOutcome, data["outcome"]), state
        return None

    return recall


@dataclass(frozen=True, eq=False)
class ArchivedCycle:
    """How one cycle ended, in full, and when (seconds since 1970)."""

    outcome: CycleOutcome
    at_seconds: float


def archive(store: CheckpointStore, outcome: CycleOutcome) -> None:
    """Keeps the whole of a cycle beside the run's baseline, which stays as long as the run; once.

    Nothing is decided by it. Without a baseline nothing is kept.

    Raises:
        CheckpointError: nothing was stored.
    """
    name = f"cycle-{outcome.key.epoch:06d}-{stable_id(str(outcome.key), outcome.status)}"
    pinned = store.pins()
    for first in store.list().checkpoints:
        if BASELINE in pinned.get(first.step, frozenset()) and not (first.path / name).exists():
            content = json.dumps(encode(outcome)).encode()
            store.commit_attachment(first, name, {CYCLE_FILE: content}, pin=False)


def archived(catalog: CheckpointCatalog) -> list[ArchivedCycle]:
    """The cycles of a run that were archived and verify, in the order in which they ended."""
    found = [
        ArchivedCycle(
            decode(CycleOutcome, json.loads(attached.file(CYCLE_FILE).read_bytes())),
            attached.created_seconds,
        )
        for checkpoint in catalog.list().checkpoints
        for attached in catalog.attachments(checkpoint).found
        if CYCLE_FILE in attached.files
    ]
    return sorted(found, key=lambda cycle: cycle.at_seconds)
