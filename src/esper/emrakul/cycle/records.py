"""Stored results: what was measured and decided about a checkpoint lies beside it, found again by its key.

It goes when its checkpoint goes. What people may ask for later is in the audit.
"""

from __future__ import annotations

import json

from esper.anatomy import Anatomy
from esper.checkpoint import CheckpointRef, CheckpointStore
from esper.emrakul.cycle.coordinator import CoordinatorState, Recall
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.leyline import IdempotencyKey, decode, encode, stable_id

DECISION_FILE = "decision.json"


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
