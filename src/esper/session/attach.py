"""Puts a session together: for a new run, or for one that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss
from esper.batches import HeldOut, device_of, hold_out, on_device
from esper.checkpoint import CheckpointStore, Generator, Stateful, load_trainer, open_key_ring
from esper.config import Config
from esper.cost import Origin, origin_of
from esper.elesh import DataRef, read_data
from esper.emrakul import Schedule
from esper.emrakul.cycle import Coordinator, CycleRunner
from esper.errors import CheckpointError, CheckpointMissing
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork
from esper.leyline import Level, decode
from esper.session.admission import (
    RunRequest,
    check_alone,
    check_layers,
    check_optimizer,
    check_resumed,
    modules_in,
    optimizer_in,
)
from esper.session.log import say
from esper.session.pool import open_pool, pool_ahead, wait_for_imports
from esper.session.run_file import write_run_file
from esper.session.saving import Saving
from esper.session.session import Session
from esper.session.state import Parts
from esper.workers import WorkerPool


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss: Loss,
    sample: Any,
    probe: Iterable[Any] | None = None,
    metric: str = "accuracy",
    higher_is_better: bool = True,
    run_dir: str | Path,
    config: Config | None = None,
    epochs: int | None = None,
    scheduler: Stateful | Sequence[Stateful] | None = None,
    scaler: Stateful | None = None,
    generators: Mapping[str, Generator] | None = None,
    companions: nn.Module | Sequence[nn.Module] = (),
    resume: bool = False,
) -> Session:
    """Attaches Esper to a training run.

    Args:
        model: the network, on its device; `torch.compile` may be around it.
        optimizer: the optimizer that trains it.
        loss: `loss(output, target)`, a scalar. A module is saved and restored with the run, and may have
            weights that the same optimizer trains.
        sample: one batch `(input, target)`, for tracing.
        probe: held-out batches to analyze with and to judge by; without it nothing is pruned.
        metric: the name of what `end_epoch` will report and decisions are made by.
        higher_is_better: its direction.
        run_dir: where checkpoints, masks and the report go.
        config: what to do; nothing is pruned unless it asks for it.
        epochs: how many epochs are planned; the schedule scales to it.
        scheduler: learning-rate scheduler(s), or what else has a `state_dict`, such as an optimizer of
            another network; saved and restored with the run.
        scaler: the GradScaler, likewise.
        generators: random generators that training draws from beside the global ones, such as a data
            loader's, by name; likewise.
        companions: what holds a copy of the network (`AveragedModel`, a teacher); masked, cut, saved and
            restored with it.
        resume: go on from the newest checkpoint if `run_dir` holds one.

    Raises:
        UntraceableError: the network cannot be exported; the message names the line.
        ConfigError: sample, loss or probe cannot be used.
        CheckpointError: the run directory cannot be written, is in use, or is of another model.
    """
    begun = time.perf_counter()
    asked = RunRequest(
        run=Path(run_dir).absolute(),
        model=model,
        optimizer=optimizer_in(optimizer),
        loss=loss,
        probe=probe,
        schedulers=_listed(scheduler),
        scaler=scaler,
        generators=dict(generators or {}),
        companions=modules_in(companions),
        config=config,
        epochs=epochs,
    )
    if _holds_checkpoints(asked.run):
        if resume:
            return _resume(asked)
        raise CheckpointError(
            f"{asked.run} holds a run already. Continue it with esper.resume({str(asked.run)!r}, model, "
            "optimizer, loss=...) or with attach(..., resume=True), or choose another run_dir. Nothing was "
            "changed."
        )
    settings = config or Config()
    with pool_ahead(settings, probe, model) as pool:
        network = _network(asked, sample, layers=Level.LAYER in settings.pruning.levels)
        with _let_go_on_error(network):
            held_out = None if probe is None else _hold_out(probe, settings)
            session = _assemble(
                asked, network, held_out, sample, settings, metric, higher_is_better, epochs, pool=pool
            )
    with _undone_on_error(session):
        session.save_baseline()
        write_run_file(session.parts)
        if pool is not None and session.parts.runner is not None:
            wait_for_imports(pool)
    session.started, session.seconds_in_esper = begun, time.perf_counter() - begun
    return session


def resume(
    run_dir: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss: Loss,
    probe: Iterable[Any] | None = None,
    scheduler: Stateful | Sequence[Stateful] | None = None,
    scaler: Stateful | None = None,
    generators: Mapping[str, Generator] | None = None,
    companions: nn.Module | Sequence[nn.Module] = (),
    config: Config | None = None,
    epochs: int | None = None,
) -> Session:
    """Goes on from the newest checkpoint that verifies; the next step equals that of the uninterrupted run.

    Build model, optimizer and scheduler exactly as for the first run; cuts are made again and proven again.

    Args:
        run_dir: the run directory given to `attach`.
        model: a fresh network as at the start of the run.
        optimizer: its optimizer, built the same way.
        loss: as for `attach`.
        probe: other held-out batches than those that the run has kept.
        scheduler: as for `attach`.
        scaler: as for `attach`.
        generators: as for `attach`, under the same names.
        companions: as for `attach`, built the same way.
        config: other settings than those that the run was started with.
        epochs: another number of planned epochs.

    Raises:
        CheckpointMissing: the directory holds no checkpoint that verifies.
        CheckpointError: the checkpoint is of another network.
    """
    asked = RunRequest(
        run=Path(run_dir).absolute(),
        model=model,
        optimizer=optimizer_in(optimizer),
        loss=loss,
        probe=probe,
        schedulers=_listed(scheduler),
        scaler=scaler,
        generators=dict(generators or {}),
        companions=modules_in(companions),
        config=config,
        epochs=epochs,
    )
    if not _holds_checkpoints(asked.run):
        raise CheckpointMissing(
            f"{asked.run} holds no checkpoint. Start a run there with esper.attach(..., run_dir=...)."
        )
    return _resume(asked)


def _resume(asked: RunRequest) -> Session:
    run, probe = asked.run, asked.probe
    ring = open_key_ring(run)
    with CheckpointStore(run, keyring=ring) as store:
        search = store.search()
        if search.found is None:
            why = "; ".join(str(rejection) for rejection in search.rejected[:3])
            raise CheckpointMissing(
                f"{run} holds no checkpoint that verifies ({why}). Start again in another run_dir."
            )
        target = search.found
        extra = load_trainer(target).extra
        data = DataRef(store.catalog.blob(target, "batches"), store.catalog.blob(target, "samples"))
        sample, kept = read_data(data)
    check_resumed(asked, extra)
    begun_with = Config.model_validate_json(extra["config"])
    settings = asked.config or begun_with
    check_layers(settings, begun_with)
    held_out = kept if probe is None else _hold_out(probe, settings)
    origin = decode(Origin, extra["origin"])
    layers = origin.layers > 0  # as when the run began: its cuts are written down in those units
    network = _network(asked, on_device(sample, device_of(asked.model)), layers=layers)
    with _let_go_on_error(network):
        session = _assemble(
            asked,
            network,
            held_out if held_out.validation else None,
            sample,
            settings,
            extra["metric"],
            extra["higher_is_better"],
            extra["epochs_planned"] if asked.epochs is None else asked.epochs,
            origin=origin,
        )
    with _undone_on_error(session):
        session.continue_from(session.parts.saving.store.catalog.at(target.step))
    aside = session.parts.saving.store.aside
    for rejection in search.rejected:
        passed_over = f"A newer checkpoint was passed over: {rejection}"
        if rejection.path in aside:
            passed_over += f". Nothing of it was deleted; it was set aside as {aside[rejection.path]}"
        session.log.note(passed_over)
        say(passed_over, problem=True)
    return session


def _network(asked: RunRequest, sample: Any, *, layers: bool) -> LiveNetwork:
    check_alone(asked.model)
    check_optimizer(asked.model, asked.optimizer, asked.loss)
    return LiveNetwork(asked.model, asked.optimizer, sample, asked.loss, asked.companions, layers=layers)


@contextmanager
def _let_go_on_error(network: LiveNetwork) -> Iterator[None]:
    """Until a session owns the network; its own `detach` serves from then on."""
    try:
        yield
    except BaseException:
        network.detach()
        raise


def _assemble(
    asked: RunRequest,
    network: LiveNetwork,
    held_out: HeldOut | None,
    sample: Any,
    config: Config,
    metric: str,
    higher_is_better: bool,
    epochs: int | None,
    *,
    origin: Origin | None = None,
    pool: WorkerPool | None = None,
) -> Session:
    origin = origin or origin_of(
        network.anatomy, network.graph, network.tensors(), sample, config.pruning.timed_batch
    )
    schedule = Schedule(config.pruning, epochs)
    coordinator = Coordinator(config.pruning, time.monotonic, thresholds=config.importance.thresholds)
    saving = _saving(asked, network, held_out, sample, config)
    tracker = ImportanceTracker(
        network.anatomy, network.named_parameters(), network.optimizer, config.importance
    )
    why_off = _why_off(config, held_out, network)
    if why_off is None:
        pool = pool or open_pool(config, network.model)
    elif pool is not None:
        pool.close()
        pool = None
    return Session(
        Parts(
            network=network,
            tracker=tracker,
            saving=saving,
            runner=None if pool is None else CycleRunner(coordinator, schedule, saving.store),
            pool=pool,
            held_out=held_out,
            origin=origin,
            config=config,
            metric=metric,
            higher_is_better=higher_is_better,
            epochs=epochs,
            why_off=why_off or "",
        )
    )


def _saving(
    asked: RunRequest, network: LiveNetwork, held_out: HeldOut | None, sample: Any, config: Config
) -> Saving:
    run = asked.run
    name = f"{type(network.model).__qualname__}-{network.anatomy.digest[:16]}"
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"The run directory {run} cannot be made: {error.strerror}. Give a run_dir in a place that "
            "can be written. Nothing was changed."
        ) from error
    ring = open_key_ring(run, create=True)
    store = CheckpointStore(run, keyring=ring, model=name, keep_last=config.checkpoint.keep_last)
    saving = Saving(
        store, asked.schedulers, asked.scaler, asked.generators, background=config.checkpoint.background
    )
    try:
        saving.keep_data(sample, held_out or HeldOut((), ()))
        saving.structure_changed(network)
    except BaseException:
        saving.close()
        raise
    return saving


def _why_off(config: Config, held_out: HeldOut | None, network: LiveNetwork) -> str | None:
    """Why nothing will be pruned ('' if nobody asked for it), or None if it will."""
    if not config.pruning.is_enabled:
        return ""
    if network.anatomy.num_units == 0:
        reasons = "; ".join(sorted({axis.reason for axis in network.anatomy.frozen})[:3])
        return (
            f"Nothing can be pruned: no unit of this network is free ({reasons or 'it has no inner width'}). "
            "`esper.inspect(model, sample)` shows the rest. Training goes on, saved and unpruned."
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


def _hold_out(probe: Iterable[Any], config: Config) -> HeldOut:
    with torch.random.fork_rng(devices=[]):  # a data loader draws from it; training shall not notice
        return hold_out(probe, config.analysis)


@contextmanager
def _undone_on_error(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        session.detach()
        raise


def _holds_checkpoints(run: Path) -> bool:
    directory = run / "checkpoints"
    return directory.is_dir() and any(
        path.name.startswith("step-") for path in directory.iterdir() if path.is_dir()
    )


def _listed(scheduler: Stateful | Sequence[Stateful] | None) -> Sequence[Stateful]:
    if scheduler is None:
        return ()
    return tuple(scheduler) if isinstance(scheduler, Sequence) else (scheduler,)
