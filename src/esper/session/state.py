"""What a session is made of and what it remembers; how both go into a checkpoint and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import nn

from esper.batches import HeldOut
from esper.checkpoint import LEAVES, CheckpointRef
from esper.config import Config
from esper.cost import Origin
from esper.emrakul import Trial
from esper.emrakul.cycle import CoordinatorState, CycleRunner
from esper.emrakul.plan import Situation
from esper.errors import CheckpointError
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork
from esper.leyline import decode, encode
from esper.report import WorkerRow
from esper.session.log import RunLog
from esper.session.pool import worker_rows
from esper.session.saving import Saving
from esper.workers import WorkerPool


@dataclass
class Parts:
    """The parts of a session; `esper.attach` and `esper.resume` put them together."""

    network: LiveNetwork
    tracker: ImportanceTracker
    saving: Saving
    runner: CycleRunner | None
    """None when nothing will be pruned; `why_off` says why."""
    pool: WorkerPool | None
    """Where analyses run; None likewise."""
    held_out: HeldOut | None
    origin: Origin
    config: Config
    metric: str
    higher_is_better: bool
    epochs: int | None
    why_off: str = ""

    def situation(self) -> Situation:
        """The network as it is now; later masks do not change it."""
        return Situation(self.network.anatomy, self.network.masks.keep.copy(), self.origin)

    def removed_fraction(self) -> float:
        """Share of the original cost that is masked or cut."""
        return self.situation().removed_fraction(self.config.pruning.cost)

    def workers(self) -> tuple[WorkerRow, ...]:
        """How the worker processes have fared so far."""
        return worker_rows(self.pool)


@dataclass
class Memory:
    """What a session remembers from epoch to epoch."""

    epoch: int = 0
    step: int = 0
    log: RunLog = field(default_factory=RunLog)
    trial: Trial = field(default_factory=Trial)


def capture(parts: Parts, memory: Memory) -> dict[str, Any]:
    """Everything beyond the trainer's own state that a checkpoint needs."""
    network = parts.network
    return {
        "parameter_names": network.parameter_names(),
        "cuts": [past.record() for past in network.cuts],
        "keep": network.masks.keep,
        "originals": network.masks.originals(),
        "companions": [companion.state_dict() for companion in network.companions],
        "criterion": network.loss.state_dict() if isinstance(network.loss, nn.Module) else None,
        "frozen": [name for name, p in network.named_parameters().items() if not p.requires_grad],
        "optimizer_class": type(network.optimizer).__name__,
        "tracker": parts.tracker.state(),
        "coordinator": encode(parts.runner.coordinator.state) if parts.runner else None,
        "origin": encode(parts.origin),
        "log": encode(memory.log),
        "workers": [asdict(row) for row in parts.workers()],
        "trial": encode(memory.trial, leaves=LEAVES),
        "epochs_planned": parts.epochs,
        "metric": parts.metric,
        "higher_is_better": parts.higher_is_better,
        "config": parts.config.model_dump_json(),
    }


def restore(parts: Parts, memory: Memory, target: CheckpointRef, *, as_rollback: bool) -> None:
    """Puts network, optimizer and everything around them into the state of a checkpoint.

    A rollback keeps what the coordinator has learned and what was marked since, so that the same plan is not
    simply made again.
    """
    state = parts.saving.read(target)
    extra, network = state.extra, parts.network
    _count_companions(network, extra["companions"])
    network.take_back_cuts(_common_cuts(network, extra["cuts"]))
    network.make_cuts(extra["cuts"][len(network.cuts) :])
    _check_companions(network, extra["companions"])
    network.renew_masks()
    parts.saving.restore(state, network)
    for companion, saved in zip(network.companions, extra["companions"], strict=True):
        companion.load_state_dict(saved)
    if isinstance(network.loss, nn.Module) and extra.get("criterion") is not None:
        network.loss.load_state_dict(extra["criterion"])
    if "frozen" in extra:
        _freeze(network, extra["frozen"])
    network.masks.apply(np.asarray(extra["keep"]), extra["originals"])
    parts.tracker.rebind(
        network.anatomy, network.named_parameters(), np.full(parts.tracker.num_units, -1, np.int64)
    )
    parts.tracker.load_state(extra["tracker"])
    before = memory.log
    memory.log = decode(RunLog, extra["log"])
    if as_rollback:
        memory.log.take_over(RunLog(marks=before.marks, withdrawals=before.withdrawals))
    memory.step, memory.epoch = state.step, state.epoch
    if not as_rollback:
        memory.trial = decode(Trial, extra["trial"], leaves=LEAVES)
        if parts.runner is not None and extra["coordinator"] is not None:
            parts.runner.coordinator.state = decode(CoordinatorState, extra["coordinator"])
    parts.saving.structure_changed(network)
    parts.saving.returned_to(target, as_rollback=as_rollback)


def _freeze(network: LiveNetwork, frozen: Sequence[str]) -> None:
    """Lets every parameter be trained or not as when the checkpoint was saved."""
    for name, parameter in network.named_parameters().items():
        if parameter.is_leaf:
            parameter.requires_grad_(name not in set(frozen))


def _count_companions(network: LiveNetwork, saved: Sequence[Mapping[str, Any]]) -> None:
    if len(network.companions) != len(saved):
        raise _other_companions(len(network.companions), len(saved))


def _check_companions(network: LiveNetwork, saved: Sequence[Mapping[str, Any]]) -> None:
    given = [set(companion.state_dict()) for companion in network.companions]
    if given != [set(state) for state in saved]:
        raise _other_companions(len(given), len(saved))


def _other_companions(given: int, saved: int) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint holds {saved} companion(s), and {given} were given, or others. Give "
        "the same ones in the same order as when the run began, as `companions=`."
    )


def _common_cuts(network: LiveNetwork, records: Sequence[Mapping[str, Any]]) -> int:
    """How many of the network's cuts the records begin with."""
    count = 0
    for past, record in zip(network.cuts, records, strict=False):
        if past.record() != dict(record):
            break
        count += 1
    return count
