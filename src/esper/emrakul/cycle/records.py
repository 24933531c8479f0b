"""Stored results: what was measured and decided about a checkpoint lies beside it, found again by its key.

It goes when its checkpoint goes. What people may ask for later is in the audit, and so is what a process had
decided that was killed before it had stored it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from esper.anatomy import Anatomy
from esper.checkpoint import AttachmentRef, CheckpointRef, CheckpointStore
from esper.emrakul.cycle.contract import memory_in, outcome_in, report_of
from esper.emrakul.cycle.coordinator import CoordinatorState, Recall
from esper.emrakul.cycle.history import History, extended
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.leyline import IdempotencyKey, decode, stable_id
from esper.leyline.wire import messages, parsed
from esper.nissa import acts

DECISION_FILE = "decision.pb"
_FILE_BEFORE = "decision.json"
"""Runs stored decisions as JSON at first; those are read as well."""


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
    content = report_of(anatomy, outcome, state).SerializeToString()
    store.commit_attachment(base, name, {DECISION_FILE: content}, pin=False)


def recall_from(store: CheckpointStore, base: CheckpointRef) -> Recall:
    """Looks for stored results beside one checkpoint; what does not verify is not found."""

    def recall(key: IdempotencyKey) -> tuple[CycleOutcome, CoordinatorState] | None:
        for attached in store.attachments(base).found:
            outcome, state = _recorded(attached)
            if outcome is not None and state is not None and outcome.key == key:
                return outcome, state
        return None

    return recall


class Known:
    """What is known of decisions about one checkpoint: beside it, and in the audit.

    Args:
        store: of the run.
        base: the checkpoint.
        history: the cycles before.
        in_audit: whether a process before this one may have decided, and been killed before it stored that.
    """

    def __init__(
        self, store: CheckpointStore, base: CheckpointRef, history: History, *, in_audit: bool
    ) -> None:
        self._beside, self._in_audit = recall_from(store, base), in_audit
        self._audit, self._history = store.audit, history

    def recall(self, key: IdempotencyKey) -> tuple[CycleOutcome, CoordinatorState] | None:
        """The outcome of a decision, and what the coordinator remembered after it; None if it is new."""
        return self._beside(key) or self._told(key)

    def is_stored(self, key: IdempotencyKey) -> bool:
        """Whether it lies beside the checkpoint."""
        return self._beside(key) is not None

    def is_told(self, key: IdempotencyKey) -> bool:
        """Whether the audit holds it."""
        return self.is_stored(key) or self._told(key) is not None

    def _told(self, key: IdempotencyKey) -> tuple[CycleOutcome, CoordinatorState] | None:
        for told in reversed(self._audit.told(acts.Decided, holding=str(key)) if self._in_audit else []):
            outcome = decode(CycleOutcome, told.outcome)
            if told.memory and outcome.key == key and outcome.is_conclusive:
                state = decode(CoordinatorState, told.memory)
                return outcome, replace(state, history=extended(self._history, outcome))
        return None


def _recorded(attached: AttachmentRef) -> tuple[CycleOutcome | None, CoordinatorState | None]:
    if (stored := record_before(attached)) is not None:
        outcome = None if stored["outcome"] is None else decode(CycleOutcome, stored["outcome"])
        return outcome, decode(CoordinatorState, stored["coordinator"])
    if DECISION_FILE not in attached.files:
        return None, None
    raw = attached.file(DECISION_FILE).read_bytes()
    is_mask = "masks.bin" in attached.files
    report = parsed(messages.MaskApplication, raw).report if is_mask else parsed(messages.AnalysisReport, raw)
    return outcome_in(report), memory_in(report)


def record_before(attached: AttachmentRef) -> dict[str, Any] | None:
    """The record of an earlier Esper, which wrote JSON; None if it is not one."""
    if _FILE_BEFORE not in attached.files:
        return None
    stored: dict[str, Any] = json.loads(attached.file(_FILE_BEFORE).read_bytes())
    return stored
