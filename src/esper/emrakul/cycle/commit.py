"""Accepted masks on disk: committed beside the checkpoint that they are about, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray
from esper.checkpoint import MODEL_FILE, AttachmentRef, CheckpointRef, CheckpointStore, load_tensors
from esper.emrakul.cycle.contract import memory_in, outcome_in, report_of
from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.emrakul.cycle.records import DECISION_FILE, record_before
from esper.emrakul.plan import Plan
from esper.errors import CheckpointCorrupt
from esper.leyline import decode
from esper.leyline.wire import VERSION, messages, parsed

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
    architecture = messages.PrunedArchitecture(
        version=VERSION, anatomy_digest=anatomy.digest, num_units=anatomy.num_units
    )
    bits = messages.ArrayReference(file=_BITS, dtype="bit", shape=[anatomy.num_units])
    content = messages.MaskApplication(
        version=VERSION,
        epoch=mask.epoch,
        masks=messages.PruningMasks(
            version=VERSION,
            architecture=architecture,
            keep=bits,
            originals=messages.ArrayReference(file=_ORIGINALS),
        ),
        is_on_probation=mask.is_on_probation,
        reason=mask.reason,
        report=report_of(anatomy, end.outcome, end.state),
    )
    return store.commit_attachment(
        base,
        MASK,
        {
            _BITS: np.packbits(mask.keep).tobytes(),
            _ORIGINALS: _hidden_values(load_tensors(base.file(MODEL_FILE)), anatomy, mask.keep),
            DECISION_FILE: content.SerializeToString(),
        },
    )


def read_mask(store: CheckpointStore, base: CheckpointRef, anatomy: Anatomy) -> CycleEnd | None:
    """The end of the cycle whose mask lies beside a checkpoint; None if none verifies for this network."""
    for attached in store.attachments(base).found:
        if attached.name == MASK:
            stored = record_before(attached)
            if stored is None:
                return _read(attached, anatomy, base)
            return _read_before(stored, attached, anatomy, base)
    return None


def _read(attached: AttachmentRef, anatomy: Anatomy, base: CheckpointRef) -> CycleEnd | None:
    content = parsed(messages.MaskApplication, attached.file(DECISION_FILE).read_bytes())
    architecture, outcome = content.masks.architecture, outcome_in(content.report)
    if architecture.anatomy_digest != anatomy.digest or outcome is None or outcome.plan is None:
        return None
    keep = _keep(attached, architecture.num_units)
    mask = PendingMask(content.epoch, keep, content.is_on_probation, content.reason, outcome.plan, base.step)
    return CycleEnd(content.epoch, content.reason, memory_in(content.report), outcome, mask)


def _read_before(
    content: Mapping[str, Any], attached: AttachmentRef, anatomy: Anatomy, base: CheckpointRef
) -> CycleEnd | None:
    """The same of an earlier Esper, which wrote JSON."""
    if content["anatomy"] != anatomy.digest:
        return None
    epoch, reason, outcome = content["epoch"], content["reason"], decode(CycleOutcome, content["outcome"])
    if outcome.plan is None:
        return None
    keep = _keep(attached, content["num_units"])
    mask = PendingMask(epoch, keep, content["is_on_probation"], reason, outcome.plan, base.step)
    return CycleEnd(epoch, reason, decode(CoordinatorState, content["coordinator"]), outcome, mask)


def _keep(attached: AttachmentRef, num_units: int) -> BoolArray:
    bits = np.frombuffer(attached.file(_BITS).read_bytes(), np.uint8)
    return np.unpackbits(bits, count=num_units).astype(np.bool_)


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
