"""Puts the pieces of a session together: for a new run, or for one that goes on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from esper.anatomy.graph import Alive, CopiesBeside, plain_copies_beside
from esper.anatomy.proof import RANDOM
from esper.batches import HeldOut
from esper.checkpoint import CheckpointStore, Entry, KeyRing, Memory, open_key_ring
from esper.config import Config
from esper.emrakul import Schedule, Trial
from esper.emrakul.cycle import Coordinator, CycleRunner
from esper.errors import CheckpointError
from esper.files import make_private
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork, measured
from esper.nissa import Sink, given_events, mail_events
from esper.runs import Mailbox
from esper.session.admission import RunRequest, in_no_optimizer, run_name
from esper.session.desk import refusals_to
from esper.session.emergency import Emergency
from esper.session.growing import Growing
from esper.session.growing_together import growing_of
from esper.session.horizon import Horizon
from esper.session.ledger import Ledger
from esper.session.log import RunLog
from esper.session.metrics import Metrics
from esper.session.pool import open_kernels, open_pool
from esper.session.saving import Saving
from esper.session.shared import SharedMemory
from esper.session.state import entries_of
from esper.session.strategy import Strategy
from esper.session.teaching import Teaching
from esper.session.telemetry import Telemetry
from esper.session.terms import Terms, write_run_file
from esper.tamiyo import policy_of
from esper.workers import WorkerPool


@dataclass(frozen=True, eq=False)
class Assembly:
    """The pieces of one session. Each of its rooms gets those that it needs.

    Attributes:
        pool: where analyses run; None when nothing will be pruned, and `why_off` says why.
        held_out: what is analyzed and judged with; None if none was given.
        mail: where other processes ask; None if that cannot be.
        ledger: what has become of what they asked.
    """

    network: LiveNetwork
    copies: CopiesBeside
    tracker: ImportanceTracker
    growing: Growing
    teaching: Teaching
    strategy: Strategy
    saving: Saving
    emergency: Emergency
    runner: CycleRunner
    pool: WorkerPool | None
    held_out: HeldOut | None
    mail: Mailbox | None
    ledger: Ledger
    trial: Trial
    terms: Terms
    log: RunLog
    telemetry: Telemetry
    metrics: Metrics
    horizon: Horizon
    why_off: str


def assemble(
    asked: RunRequest,
    given: Sequence[Entry],
    network: LiveNetwork,
    held_out: HeldOut | None,
    sample: Any,
    terms: Terms,
    pool: WorkerPool | None = None,
    kernel_pool: WorkerPool | None = None,
) -> Assembly:
    """Opens the run directory and whatever else a session works with.

    Args:
        asked: what the script gives.
        given: the part of it that is remembered.
        network: traced.
        held_out: batches to decide by.
        sample: one batch, for workers and for a resume.
        terms: of the run.
        pool: workers that were started ahead.
        kernel_pool: likewise, for what grows.

    Raises:
        CheckpointError: the run directory cannot be written, or is in use.
    """
    config, log, trial = terms.config, RunLog(says=terms.pace.says), Trial()
    with ExitStack() as undo:
        telemetry = Telemetry(asked.run, config.telemetry, asked.sinks, log)
        undo.callback(telemetry.close)
        ring = _open_ring(asked.run, log.telling)
        store = _open_store(asked.run, ring, network, config, log.telling)
        undo.callback(store.close)
        log.telling.sinks.insert(0, store.audit)  # an act that it cannot hold is told to nobody
        parameters = network.named_parameters()
        tracker = ImportanceTracker(
            network.anatomy, parameters, network.optimizer, config.importance, sink=log.telling
        )
        undo.callback(tracker.detach)
        why_off = _why_off(config, held_out, network)
        if why_off is None:
            pool = pool or open_pool(config, network.model)
            undo.callback(pool.close)
        elif pool is not None:
            pool.close()
            pool = None
        coordinator = Coordinator(config.pruning, time.monotonic, thresholds=config.importance.thresholds)
        runner = CycleRunner(
            coordinator, Schedule(config.pruning, terms.epochs), store, log.telling, terms.settings_id
        )
        metrics = Metrics(
            terms,
            log,
            None if held_out is None else lambda: measured(network, held_out).loss,
            partial(_tell_people, asked.run, network, terms),
        )
        kernels = open_kernels(config, store, ring, kernel_pool)
        undo.callback(kernels.close)
        seeded = (network, tracker, held_out, config.growing, log, asked.scaler, kernels)
        growing = growing_of(asked.ranks, asked.model, *seeded)
        teaching = Teaching(network, config.teaching, sample, held_out, log)
        ledger = Ledger(store.audit, log)
        entries = entries_of(
            given, network, tracker, growing, teaching, trial, runner, pool, log, metrics, ledger
        )
        memory = Memory(entries) if asked.ranks is None else SharedMemory(entries, asked.ranks, log.tell)
        saving = Saving(store, network, memory, background=config.checkpoint.background)
        data = held_out or HeldOut((), ())
        saving.keep_data(sample, data)

        def beside(place: Path) -> Saving:
            """A run directory of its own, with all that a resume reads."""
            own_ring = _open_ring(place, log.telling)
            own = Saving(
                _open_store(place, own_ring, network, config, log.telling), network, memory, background=True
            )
            own.keep_data(sample, data)
            return own

        emergency = Emergency(asked.run, beside, log)
        growing.alarm = emergency.save
        mail = _open_mail(store, ring, log)
        undo.pop_all()
    network.earlier.tell = lambda *odd: log.tell(given_events.EarlierWeights(*map(str, odd)))
    for copy in network.masks.plain_copies:
        copy.tell = log.tell
    if left := in_no_optimizer(asked):
        log.tell(given_events.InNoOptimizer(len(left), left[0]))
    taught = () if asked.teacher is None else (asked.teacher.network,)
    copies = CopiesBeside(asked.model, (*asked.companions, *taught))
    alive = Alive(asked.model)
    for holder in copies.look(alive):
        log.tell(given_events.CopyNotGiven(type(holder).__name__))
    plain: list[Any] = [copy.given for copy in network.masks.plain_copies]
    for what, name in plain_copies_beside(asked.model, alive, plain):
        log.tell(given_events.PlainCopyNotGiven(what, name))
    del alive
    horizon = Horizon(asked.schedulers, runner, terms, log)
    return Assembly(
        network=network,
        copies=copies,
        tracker=tracker,
        growing=growing,
        teaching=teaching,
        strategy=Strategy(asked.policy or policy_of(config.strategy), growing, trial, terms, log),
        saving=saving,
        emergency=emergency,
        runner=runner,
        pool=pool,
        held_out=held_out,
        mail=mail,
        ledger=ledger,
        trial=trial,
        terms=terms,
        log=log,
        telemetry=telemetry,
        metrics=metrics,
        horizon=horizon,
        why_off=why_off or "",
    )


def _tell_people(run: Path, network: LiveNetwork, terms: Terms) -> None:
    """Writes down what decisions are made by now; training does not depend on it."""
    with suppress(OSError):
        write_run_file(run, network, terms)


def _open_ring(run: Path, sink: Sink) -> KeyRing:
    try:
        make_private(run)
    except OSError as error:
        raise CheckpointError(
            f"The run directory {run} cannot be made: {error.strerror}. Give a run_dir in a place that "
            "can be written. Nothing was changed."
        ) from error
    return open_key_ring(run, create=True, sink=sink)


def _open_store(
    run: Path, ring: KeyRing, network: LiveNetwork, config: Config, sink: Sink
) -> CheckpointStore:
    asked = config.checkpoint
    return CheckpointStore(
        run,
        keyring=ring,
        model=run_name(network),
        keep_last=asked.keep_last,
        encrypt_weights=asked.encrypt_weights,
        sink=sink,
    )


def _open_mail(store: CheckpointStore, ring: KeyRing, log: RunLog) -> Mailbox | None:
    """Where other processes ask this run; training does not depend on it."""
    try:
        return Mailbox(store.run_dir, ring, store.identity.id, refusals_to(log.tell))
    except OSError as error:
        log.tell(mail_events.MailClosed(f"{error.strerror} ({error.filename})"))
        return None


def _why_off(config: Config, held_out: HeldOut | None, network: LiveNetwork) -> str | None:
    """Why nothing will be pruned ('' if nobody asked for it), or None if it will."""
    if not config.pruning.is_enabled:
        return ""
    if network.anatomy.num_units == 0:
        reasons = sorted({axis.reason for axis in network.anatomy.frozen})[:3]
        held = "; ".join(f"one {reason}" for reason in reasons)
        return (
            f"Nothing can be pruned: no width of this network is free ({held or 'it has no inner one'}). "
            "`esper.inspect(model, sample, loss)` shows the rest. Training goes on, saved and unpruned."
        )
    if not network.cuttable_units().any():
        name, why = next(iter(network.refused.items()))
        way = "; `esper.compact(..., in_place=False)` cuts a network without asking its code"
        way = "" if why.startswith(RANDOM) else way  # no proof of a cut in either way
        first, groups = f"{name}: {why.partition('. ')[0]}", len(network.anatomy.groups)
        return (
            f"Nothing can be pruned in training: of {groups} groups of units not one can be cut. {first}. "
            f"Training goes on, saved and unpruned{way}."
        )
    if held_out is None and config.validation.validation != "none":
        return (
            "Nothing will be pruned: there is no held-out data to decide by. Give probe= (a loader of "
            "batches that training never sees). Training goes on, saved and unpruned."
        )
    if held_out is None:
        return (
            "Nothing will be pruned: the analysis needs held-out batches even where nothing is validated. "
            "Give probe=. Training goes on, saved and unpruned."
        )
    return None
