"""Accepted masks on disk: committed beside the checkpoint that they are about, and read back."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray
from esper.checkpoint import MODEL_FILE, AttachmentRef, CheckpointRef, CheckpointStore, load_tensors
from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.emrakul.cycle.records import DECISION_FILE, record
from esper.emrakul.plan import Plan
from esper.errors import CheckpointCorrupt
from esper.leyline import decode

MASK = "mask-01"
_BITS, _ORIGINALS = "masks.bin", "originals.safetensors"


@dataclass(frozen=True, eq=False)
class PendingMask:
    """A mask that was accepted about one checkpoint and waits to be applied to the live network.

    Attributes:
        epoch: of the checkpoint.
        keep: units that are left, shape [units].
        is_on_probation: the measurement could not rule out that it costs too much.
        reason: one sentence for people.
        plan: what `keep` follows from, to be shrunk where it turns out to cost too much.
        step: of the checkpoint; beside it the mask is committed.
    """

    epoch: int
    keep: BoolArray
    is_on_probation: bool
    reason: str
    plan: Plan
    step: int


@dataclass(frozen=True, eq=False)
class CycleEnd:
    """What a cycle left behind.

    Attributes:
        epoch: of the checkpoint that it was about.
        reason: one sentence for people.
        state: what the coordinator remembers after it.
        outcome: how it ended, in full; None if nothing durable was there to decide from, or to commit to.
        mask: what was accepted and committed, if anything was.
    """

    epoch: int
    reason: str
    state: CoordinatorState
    outcome: CycleOutcome | None = None
    mask: PendingMask | None = None

    @property
    def is_due(self) -> bool:
        """Whether the schedule wanted a decision; otherwise the coordinator remembers none."""
        history, outcome = self.state.history, self.outcome
        return bool(history) and outcome is not None and history[-1].key == str(outcome.key)


def commit_mask(
    store: CheckpointStore, base: CheckpointRef, anatomy: Anatomy, end: CycleEnd
) -> AttachmentRef:
    """Commits an accepted mask beside its checkpoint: bits, the values it hides, and the rationale."""
    mask = end.mask
    if mask is None:
        raise ValueError("there is no mask to commit")
    content = {
        "epoch": mask.epoch,
        "num_units": anatomy.num_units,
        "is_on_probation": mask.is_on_probation,
        "reason": mask.reason,
        **record(anatomy, end.outcome, end.state),
    }
    return store.commit_attachment(
        base,
        MASK,
        {
            _BITS: np.packbits(mask.keep).tobytes(),
            _ORIGINALS: _hidden_values(load_tensors(base.file(MODEL_FILE)), anatomy, mask.keep),
            DECISION_FILE: json.dumps(content).encode(),
        },
    )


def read_mask(store: CheckpointStore, base: CheckpointRef, anatomy: Anatomy) -> CycleEnd | None:
    """The end of the cycle whose mask lies beside a checkpoint; None if none verifies for this network."""
    for attached in store.attachments(base).found:
        if attached.name != MASK:
            continue
        content = json.loads(attached.file(DECISION_FILE).read_bytes())
        if content["anatomy"] != anatomy.digest:
            continue
        bits = np.frombuffer(attached.file(_BITS).read_bytes(), np.uint8)
        keep = np.unpackbits(bits, count=content["num_units"]).astype(np.bool_)
        epoch, reason, plan = content["epoch"], content["reason"], content["outcome"]["plan"]
        probation = content["is_on_probation"]
        mask = PendingMask(epoch, keep, probation, reason, decode(Plan, plan), base.step)
        state = decode(CoordinatorState, content["coordinator"])
        return CycleEnd(epoch, reason, state, mask=mask)
    return None


def _hidden_values(tensors: dict[str, Tensor], anatomy: Anatomy, keep: BoolArray) -> dict[str, Tensor]:
    """The values under the mask, row by row, by parameter."""
    names = {info.name: (info.name, *info.aliases) for info in anatomy.tensors}
    where: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        saved = next((tensors[other] for other in names[name] if other in tensors), None)
        if saved is None:
            raise CheckpointCorrupt(f"The checkpoint holds no {name}, which the mask is about.")
        values[name] = saved
        where.setdefault(name, torch.zeros(saved.shape, dtype=torch.bool))
        where[name].index_fill_(axis, torch.from_numpy(gone), True)
    return {name: saved[where[name]] for name, saved in values.items()}
