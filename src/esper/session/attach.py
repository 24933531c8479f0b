"""The two ways into a session: a run that begins, and one that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss, bare
from esper.batches import HeldOut, beside, first_batches, hold_out, plain
from esper.checkpoint import (
    BASELINE,
    CheckpointRef,
    CheckpointStore,
    Generator,
    HasStateDict,
    Memory,
    Rejection,
    holds_checkpoints,
    open_key_ring,
)
from esper.config import Config
from esper.cost import origin_of
from esper.elesh import read_data
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from esper.kasmina import CheckpointedTeacher, LiveNetwork
from esper.kasmina.seeds import Blueprint
from esper.leyline import Level
from esper.nissa import Sink, acts, assumed, events, given_events, rank_events
from esper.runs.network import data_of, read_state
from esper.session.admission import (
    RunRequest,
    check_held_out,
    check_same_network,
    check_sizes,
    fitting_batches,
)
from esper.session.assembly import assemble
from esper.session.built import Built
from esper.session.ceiling import tell_reach
from esper.session.companions import GivenCompanions
from esper.session.horizon import epochs_after
from esper.session.looking import looked_at
from esper.session.metric_names import direction_of
from esper.session.metrics import check_direction, decided_by
from esper.session.pace import Pace
from esper.session.pool import kernel_pool_ahead, pool_ahead
from esper.session.session import Session
from esper.session.state import RANDOM_OF_RANKS, given_entries
from esper.session.teaching import check_same
from esper.session.terms import Terms, write_run_file
from esper.session.together import on_all_ranks, refused_by_all, session_of, teach
from esper.session.undoing import undone_on_error
from esper.tamiyo import Policy


def attach(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss: Loss,
    sample: Any,
    probe: Iterable[Any] | None = None,
    metric: str | None = None,
    higher_is_better: bool | None = None,
    run_dir: str | Path,
    target: float | Mapping[str, float] | None = None,
    config: Config | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    every_n_steps: int | None = None,
    scheduler: HasStateDict | Sequence[HasStateDict] | None = None,
    scaler: HasStateDict | None = None,
    generators: Mapping[str, Generator] | None = None,
    companions: GivenCompanions = (),
    blueprints: Mapping[str, Blueprint] | None = None,
    policy: Policy | None = None,
    teacher: CheckpointedTeacher | nn.Module | None = None,
    sinks: Sequence[Sink] = (),
    resume: bool = False,
) -> Session:
    """Attaches Esper to a training run.

    Args:
        model: the network, on its device; `torch.compile` may be around it.
        optimizer: the optimizer that trains it.
        loss: `loss(output, target)`, a scalar. A module is saved and restored with the run, and may have
            weights that the same optimizer trains.
        sample: one batch as the data loader yields it, for tracing: `(input, target)`, or a mapping with the
            target under `labels`; named tuples and data classes are one or the other.
        probe: held-out batches to analyze with and to judge by; without it nothing is pruned.
        metric: the name of what `end_epoch` will report and decisions are made by. None: `accuracy`, or what
            it reports instead; where that is nothing but a `loss`, then `probe_loss`: the loss on `probe`,
            which Esper measures itself.
        higher_is_better: its direction; None: yes, unless the name is that of a loss or an error.
        run_dir: where checkpoints, masks and the report go.
        target: how much shall go: a share of the FLOPs, or `{"parameters": 0.4}`; `pruning.target` of
            `config` says the same.
        config: what to do, or a mapping that says so; nothing is pruned unless it or `target` asks for it.
        epochs: how many epochs are planned; the schedule scales to it. Without it the learning-rate
            schedule tells, where it comes to an end.
        steps: the same as a number of optimizer steps.
        every_n_steps: decide after every so many optimizer steps instead of after epochs: the loop calls
            `end_step` after each of them, and never `end_epoch`.
        scheduler: learning-rate scheduler(s), or what else has a `state_dict`, such as a further
            optimizer, of this network or of another; saved and restored with the run.
        scaler: the GradScaler, likewise.
        generators: random generators that training draws from beside the global ones, such as a data
            loader's, by name; likewise.
        companions: what holds a copy of the network (`AveragedModel`, a teacher), or is one of plain tensors:
            a mapping by the network's names, or a list in the order of `model.parameters()`; several in a
            list. Masked, cut, saved and restored with it.
        blueprints: your own ones for `Session.grow`, by name.
        policy: decides at the end of every epoch what grows, instead of the one that `strategy.policy` names.
        teacher: a better network with the same classes, whose answers are a share of what `Session.loss`
            returns (`teaching`). A module is the teacher's from now on: frozen, in eval mode.
        sinks: your own, told of every event (`esper.nissa`) in a thread of their own, beside the files that
            the section `telemetry` asks for; one that is slow or fails never stops training.
        resume: go on from the newest checkpoint if `run_dir` holds one.

    Raises:
        UntraceableError: the network cannot be exported; the message names the line.
        ConfigError: sample, loss or probe cannot be used.
        CheckpointError: the run directory cannot be written, is in use, or is of another model.
    """
    with refused_by_all(model):
        check_direction(higher_is_better)
        if target is not None:
            config = Config.of(config or {}).aimed(target)
        asked = RunRequest(
            run_dir,
            model,
            optimizer,
            loss=loss,
            probe=probe,
            scheduler=scheduler,
            scaler=scaler,
            generators=generators,
            companions=companions,
            blueprints=blueprints,
            policy=policy,
            teacher=teacher,
            sinks=sinks,
            config=config,
            pace=Pace(epochs, steps, every_n_steps),
        )
    said = {"metric": metric, "higher_is_better": higher_is_better, "resume": resume}
    return on_all_ranks(
        asked, "attach", said, partial(_attach, asked, sample, metric, higher_is_better, resume=resume)
    )


def _attach(
    asked: RunRequest, sample: Any, metric: str | None, higher_is_better: bool | None, *, resume: bool
) -> Session:
    begun = time.perf_counter()
    if holds_checkpoints(asked.run):
        if resume:
            return _resume(asked, metric=metric, higher_is_better=higher_is_better)
        raise CheckpointError(
            f"{asked.run} holds a run already. Continue it with esper.resume({str(asked.run)!r}, model, "
            "optimizer, loss=...) or with attach(..., resume=True), or choose another run_dir. Nothing was "
            "changed."
        )
    settings = asked.config or Config()
    sample = plain(sample, bare(asked.model))
    probe = None if asked.probe is None else _read(asked.probe, asked.model, settings)
    with (
        pool_ahead(settings, probe, asked.model) as pool,
        kernel_pool_ahead(settings, probe, asked.policy) as kernel_pool,
    ):
        layers = Level.LAYER in settings.pruning.levels
        network, settings, said = looked_at(asked, settings, sample, layers=layers, others=probe or ())
        with undone_on_error(network.detach):  # until the session owns it
            held_out = None if probe is None else _hold_out(probe, settings, network)
            origin = origin_of(
                network.anatomy, network.graph, network.tensors(), sample, settings.pruning.timed_batch
            )
            begun_by = asked.pace.periods, origin, type(asked.optimizer).__name__, asked.pace
            seen = network.followers or {}, network.is_coupled
            name, is_higher_better, is_said = decided_by(metric, higher_is_better)
            terms = Terms(settings, name, is_higher_better, *begun_by, *seen, is_said)
            entries = given_entries(asked, terms)
            assembly = assemble(asked, entries, network, held_out, sample, terms, pool, kernel_pool)
            session = session_of(asked, assembly)
    with undone_on_error(session.detach):
        session.log.tell_all(said)
        read = len(probe or ())
        if left_out := read - len(fitting_batches(network, probe or ())):
            session.log.tell(given_events.ProbePartlyUsed(left_out, read))
        tell_reach(session.parts)
        teach(session, asked)
        session.parts.strategy.begin(is_new=True)
        if not (settings.pruning.is_enabled or session.parts.strategy.is_asked):
            session.log.tell(assumed.NoTarget())
        _begin(session)
        if higher_is_better is None and (known := direction_of(name)) is not True:
            session.log.tell(assumed.DirectionTaken.of(name, is_named=known is False))
        write_run_file(asked.run, network, terms)
    session.started, session.seconds_in_esper = begun, time.perf_counter() - begun
    return session


def _begin(session: Session) -> None:
    """Tells that a run begins, and saves its state before the first step."""
    network, terms = session.parts.network, session.parts.terms
    session.log.tell(
        acts.Began(
            model=type(network.model).__name__,
            units=network.anatomy.num_units,
            parameters=terms.origin.parameters,
            settings_id=terms.settings_id,
            settings=terms.config.model_dump(mode="json"),
        )
    )
    session.parts.saving.save_pinned(session.step, session.epoch, BASELINE)


def resume(
    run_dir: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    loss: Loss,
    probe: Iterable[Any] | None = None,
    scheduler: HasStateDict | Sequence[HasStateDict] | None = None,
    scaler: HasStateDict | None = None,
    generators: Mapping[str, Generator] | None = None,
    companions: GivenCompanions = (),
    blueprints: Mapping[str, Blueprint] | None = None,
    policy: Policy | None = None,
    teacher: CheckpointedTeacher | nn.Module | None = None,
    sinks: Sequence[Sink] = (),
    config: Config | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    step: int | None = None,
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
        blueprints: as for `attach`.
        policy: as for `attach`.
        teacher: the one of the checkpoint.
        sinks: as for `attach`.
        config: other settings than those that the run was started with.
        epochs: another number of planned epochs.
        steps: another number of planned optimizer steps.
        step: of the checkpoint to go on from, instead of the newest; later ones are set aside.

    Raises:
        CheckpointMissing: the directory holds no checkpoint that verifies, or none of `step`.
        CheckpointError: the checkpoint is of another network.
    """
    with refused_by_all(model):
        asked = RunRequest(
            run_dir,
            model,
            optimizer,
            loss=loss,
            probe=probe,
            scheduler=scheduler,
            scaler=scaler,
            generators=generators,
            companions=companions,
            blueprints=blueprints,
            policy=policy,
            teacher=teacher,
            sinks=sinks,
            config=config,
            pace=Pace(epochs, steps),
        )
    return on_all_ranks(asked, "resume", {"step": step}, partial(_resume, asked, step))


def _resume(
    asked: RunRequest,
    step: int | None = None,
    *,
    metric: str | None = None,
    higher_is_better: bool | None = None,
) -> Session:
    if not holds_checkpoints(asked.run):
        raise CheckpointMissing(
            f"{asked.run} holds no checkpoint. Start a run there with esper.attach(..., run_dir=...)."
        )
    run = asked.run
    with CheckpointStore(run, keyring=open_key_ring(run)) as store:
        target, rejected = _target(store, step)
        began = store.identity.model
        saved = read_state(target)
        sample, kept = read_data(data_of(store.catalog, target))
    terms = Terms.from_state(saved["terms"])
    pace, config = asked.pace.after(terms.pace), asked.config or terms.config
    is_aimless = terms.config.pruning.is_enabled and not config.pruning.is_enabled
    terms = replace(
        terms,
        config=config,
        metric=metric or terms.metric,
        is_metric_said=terms.is_metric_said or metric is not None or higher_is_better is not None,
        higher_is_better=terms.higher_is_better if higher_is_better is None else higher_is_better,
        epochs=epochs_after(pace, config.pruning.schedule, target.epoch, target.step) or terms.epochs,
        trained_by=type(asked.optimizer).__name__,
        pace=pace,
    )
    given = given_entries(asked, terms)
    Memory(given).check(saved)
    otherwise = Built(asked.optimizer, asked.schedulers).otherwise(saved.get("built"))
    if is_aimless:
        otherwise.append(given_events.TargetLeftOut())
    check_same(asked.teacher, saved.get("teacher"), terms.config.teaching)
    layers = terms.origin.layers > 0  # as when the run began: its cuts are written down in those units
    kept_ones = (*kept.calibration, *kept.validation)
    probe = None if asked.probe is None else _read(asked.probe, asked.model, terms.config)
    others = kept_ones if probe is None else probe
    on_it = beside(asked.model, sample)
    network, settings, _ = looked_at(
        asked,
        terms.config,
        on_it,
        layers=layers,
        others=others,
        followers=terms.followers,
        is_coupled=terms.is_coupled,
    )
    terms = replace(terms, config=settings)
    with undone_on_error(network.detach):  # until the session owns it
        check_same_network(network, saved, began)
        held_out = kept if probe is None else _hold_out(probe, terms.config, network)
        has_data = bool(held_out.validation)
        data = held_out if has_data else None
        session = session_of(asked, assemble(asked, given, network, data, sample, terms))
    with undone_on_error(session.detach):
        now = session.parts.saving.store.catalog.at(target.step)
        # what was hashed and read is not hashed and read again
        session.continue_from(*((target, saved) if now == target else (now, read_state(now))))
        teach(session, asked)
        session.parts.strategy.begin(is_new=False)
        session.log.tell_all(otherwise)
    processes = len(saved.get(RANDOM_OF_RANKS, ()))
    if asked.ranks is None and processes > 1:
        session.log.tell(rank_events.OtherProcesses(processes, 1))
    aside = session.parts.saving.store.aside
    places = [str(aside[one.path]) if one.path in aside else None for one in rejected]
    passed = [events.PassedOver(str(one), place) for one, place in zip(rejected, places, strict=True)]
    session.log.tell_all(passed)
    return session


def _target(store: CheckpointStore, step: int | None) -> tuple[CheckpointRef, tuple[Rejection, ...]]:
    """The checkpoint to go on from, verified in full, and the newer ones that were passed over."""
    if step is not None:
        checkpoint = store.catalog.at(step)
        report = store.verify(checkpoint)
        if not report.is_ok:
            raise CheckpointCorrupt(
                f"{checkpoint.path} does not verify ({'; '.join(report.problems[:3])}), and the run was to "
                "go on from this very step. Nothing was changed. Go on from another one."
            )
        return checkpoint.seen_by(report), ()
    search = store.search()
    if search.found is None:
        why = "; ".join(str(rejection) for rejection in search.rejected[:3])
        raise CheckpointMissing(
            f"{store.run_dir} holds no checkpoint that verifies ({why}). Start again in another run_dir."
        )
    return search.found, search.rejected


def _read(probe: Iterable[Any], model: nn.Module, config: Config) -> list[Any]:
    with torch.random.fork_rng(devices=[]):  # a data loader draws from it; training shall not notice
        return first_batches((plain(batch, bare(model)) for batch in probe), config.analysis)


def _hold_out(probe: Sequence[Any], config: Config, network: LiveNetwork) -> HeldOut:
    taken = fitting_batches(network, probe)
    check_sizes(taken, probe, network)
    held_out = hold_out(taken, config.analysis, whole=network.graph.is_coupled)
    check_held_out(held_out, network)
    return held_out
