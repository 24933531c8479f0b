"""A pruning cycle beside training: analyzes one checkpoint and commits the accepted mask beside it."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray, IntArray
from esper.checkpoint import MODEL_FILE, AttachmentRef, CheckpointRef, CheckpointStore, load_tensors
from esper.elesh import OfflineAnalyst
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState, Cycle
from esper.emrakul.cycle.outcome import CycleOutcome, Status
from esper.emrakul.cycle.quiet_thread import thread_beside_training
from esper.emrakul.cycle.records import DECISION_FILE, archive, commit_record, recall_from, record
from esper.emrakul.plan import Plan
from esper.errors import CheckpointCorrupt, CheckpointError
from esper.kasmina import renumbered

MASK = "mask-01"
_BITS, _ORIGINALS = "masks.bin", "originals.safetensors"


@dataclass(frozen=True, eq=False)
class Decision:
    """What a cycle decided about the network of one checkpoint: `keep` if a mask was committed, else None."""

    epoch: int
    keep: BoolArray | None
    is_on_probation: bool
    reason: str
    outcome: CycleOutcome | None
    state: CoordinatorState
    """What the coordinator remembers after it."""
    plan: Plan | None = None
    """What `keep` follows from, to be shrunk where it turns out to cost too much."""

    def renumbered(self, numbers: IntArray, num_units: int) -> Decision:
        """The same about the network as a cut has left it.

        Args:
            numbers: for every unit from before the cut its number after it, or -1.
            num_units: units after the cut.
        """
        if self.keep is None:
            return self
        plan = None if self.plan is None else self.plan.renumbered(numbers, num_units)
        return replace(self, keep=renumbered(self.keep, numbers, num_units), plan=plan)


class CycleRunner:
    """Runs one cycle at a time in a thread that mostly waits for workers."""

    def __init__(self, coordinator: Coordinator, store: CheckpointStore) -> None:
        self.coordinator = coordinator
        self._store = store
        self._thread = thread_beside_training("esper-cycle")
        self._in_flight: Future[Decision] | None = None
        self._dropped = threading.Event()

    def start(
        self,
        durable: Callable[[], CheckpointRef],
        epoch: int,
        anatomy: Anatomy,
        keep: BoolArray,
        analyst: AnalystMaker,
    ) -> None:
        """Starts the cycle of one checkpoint: `durable` waits for it, `analyst` opens it for analysis."""
        coordinator = self.coordinator
        dropped = self._dropped = threading.Event()

        def run() -> Decision:
            try:
                checkpoint = durable()
                asked = analyst(checkpoint)
                recall = recall_from(self._store, checkpoint)
                outcome = coordinator.run_cycle(
                    Cycle(epoch, anatomy, keep, checkpoint.digest, asked.id),
                    screen=asked.screen,
                    analyze=asked.analyze,
                    validate=asked.validate,
                    recall=recall,
                )
                decision = _decision(epoch, outcome, coordinator.state)
                is_stored = recall(outcome.key) is not None
                if decision.keep is not None and not dropped.is_set() and not is_stored:
                    commit_mask(self._store, checkpoint, anatomy, decision)
            except CheckpointError as error:  # nothing durable to decide from or beside: no pruning
                return Decision(epoch, None, False, str(error), None, coordinator.state)
            if dropped.is_set():
                return decision
            return self._recorded(checkpoint, anatomy, decision, outcome, is_stored=is_stored)

        self._in_flight = self._thread.submit(run)

    def _recorded(
        self,
        checkpoint: CheckpointRef,
        anatomy: Anatomy,
        decision: Decision,
        outcome: CycleOutcome,
        *,
        is_stored: bool,
    ) -> Decision:
        """The decision after its record was stored; what keeps it from being stored is told with it."""
        history = decision.state.history
        try:
            if decision.keep is None and outcome.is_conclusive and not is_stored:
                commit_record(self._store, checkpoint, anatomy, outcome, decision.state)
            if history and history[-1].key == str(outcome.key):  # otherwise nothing was due
                archive(self._store, outcome)
        except CheckpointError as error:
            return replace(decision, reason=f"{decision.reason} The record of it was not stored: {error}")
        return decision

    @property
    def is_running(self) -> bool:
        return self._in_flight is not None

    def collect(self, timeout_seconds: float) -> Decision | None:
        """The decision of the cycle in flight, or None if there is none or it needs longer than that."""
        ended = self._in_flight
        if ended is None or not wait([ended], timeout_seconds).done:
            return None
        self._in_flight = None
        return ended.result()

    def drop(self) -> None:
        """Forgets the cycle in flight: it commits no mask, and the coordinator learns nothing from it."""
        if self._in_flight is not None:
            self._dropped.set()
            self._in_flight.cancel()
            self.coordinator = copy.copy(self.coordinator)  # the cycle goes on with the one that it has
            self._in_flight = None

    def close(self) -> None:
        """Forgets the cycle in flight and waits until its thread has ended."""
        self.drop()
        self._thread.shutdown(wait=True, cancel_futures=True)


AnalystMaker = Callable[[CheckpointRef], OfflineAnalyst]


def _decision(epoch: int, outcome: CycleOutcome, state: CoordinatorState) -> Decision:
    accepted = outcome.status is Status.ACCEPTED and outcome.plan is not None
    keep = outcome.plan.keep if accepted and outcome.plan is not None else None
    plan = outcome.plan if accepted else None
    return Decision(epoch, keep, outcome.is_on_probation, outcome.reason, outcome, state, plan)


def commit_mask(
    store: CheckpointStore, base: CheckpointRef, anatomy: Anatomy, decision: Decision
) -> AttachmentRef:
    """Commits an accepted mask beside its checkpoint: bits, the values it hides, and the rationale."""
    if decision.keep is None:
        raise ValueError("there is no mask to commit")
    content = {
        "epoch": decision.epoch,
        "num_units": anatomy.num_units,
        "is_on_probation": decision.is_on_probation,
        "reason": decision.reason,
        **record(anatomy, decision.outcome, decision.state),
    }
    return store.commit_attachment(
        base,
        MASK,
        {
            _BITS: np.packbits(decision.keep).tobytes(),
            _ORIGINALS: _hidden_values(load_tensors(base.file(MODEL_FILE)), anatomy, decision.keep),
            DECISION_FILE: json.dumps(content).encode(),
        },
    )


def read_mask(store: CheckpointStore, base: CheckpointRef, anatomy: Anatomy) -> Decision | None:
    """The mask that was committed beside a checkpoint, verified; None if there is none for this network."""
    for attached in store.attachments(base).found:
        if attached.name != MASK:
            continue
        content = json.loads(attached.file(DECISION_FILE).read_bytes())
        if content["anatomy"] != anatomy.digest:
            continue
        bits = np.frombuffer(attached.file(_BITS).read_bytes(), np.uint8)
        keep = np.unpackbits(bits, count=content["num_units"]).astype(np.bool_)
        state = CoordinatorState.from_json(content["coordinator"])
        outcome = content.get("outcome")
        plan = None if outcome is None or outcome["plan"] is None else Plan.from_json(outcome["plan"])
        told = content["epoch"], keep, content["is_on_probation"], content["reason"]
        return Decision(*told, None, state, plan)
    return None


def _hidden_values(tensors: dict[str, Tensor], anatomy: Anatomy, keep: BoolArray) -> dict[str, Tensor]:
    """The values under the mask, row by row, by parameter."""
    names = {info.name: (info.name, *info.aliases) for info in anatomy.tensors}
    where: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        saved = next((tensors[other] for other in names[name] if other in tensors), None)
        if saved is None:
            raise CheckpointCorrupt(f"The checkpoint holds no {name}, which the mask is about.")
        found[name] = saved
        where.setdefault(name, torch.zeros(saved.shape, dtype=torch.bool))
        where[name].index_fill_(axis, torch.from_numpy(gone), True)
    return {name: saved[where[name]] for name, saved in found.items()}
