"""The end of a run: the last cut, what it is worth, the report, and a network that loads without its code."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from esper.anatomy import Group, Kind
from esper.anatomy.archive import write_program
from esper.anatomy.cut import Cut, Form, Snapshot
from esper.anatomy.graph import copied
from esper.anatomy.twin import for_everybody
from esper.compaction import UNSAID
from esper.cost import CostName, compare_latency
from esper.emrakul import Schedule
from esper.emrakul.cycle import RunEnd, why_missed
from esper.emrakul.plan import Situation
from esper.errors import CheckpointError, ContractError, SurgeryError
from esper.kasmina import LiveNetwork, SeedJoined, UnitsCut
from esper.leyline import encode
from esper.nissa import Event, assumed, events, progress
from esper.report import EpochRow, Latency, Overhead, Proof, RunReport, WidthRow, fates, write_report
from esper.runs import REPORT_FILE
from esper.runs.network import FORM_FILE, FORMLESS, GROWN, PROGRAM_FILE, VERSION
from esper.session.ceiling import out_of_reach
from esper.session.grown import grown_fraction, last_grown, parts_grown
from esper.session.log import Ending
from esper.session.pool import worker_rows
from esper.session.soundness import rebuilt

if TYPE_CHECKING:
    from esper.session.session import Session


@dataclass(frozen=True)
class Result:
    """What a run led to.

    Attributes:
        model: the user's network, smaller, in place; its optimizer still trains it.
        report: by how much, and why.
        report_path: the page to look at.
        run_dir: where everything is kept.
        cost: what the target counts.
        target: share of it that should go; None where nothing was asked for.
        reached: share of it that has gone.
        why: why the target was missed, or nothing was pruned, and what to do; '' if it was reached.
        grown: paths of the seeds that are parts of the network now.
    """

    model: nn.Module = field(repr=False)
    report: RunReport = field(repr=False)
    report_path: Path
    run_dir: Path
    cost: CostName
    target: float | None
    reached: float
    why: str = ""
    grown: tuple[str, ...] = ()

    def __str__(self) -> str:
        asked = "" if self.target is None else f" (target {self.target:.1%})"
        quality = self.report.quality_after
        measured = "" if quality is None else f", {self.report.metric} {quality:.4g}{self._fell(quality)}"
        why = f" {self.why}" if self.why else ""
        grown = ", with what has grown" if self.grown else ""
        went = f"{self.reached:.1%} of the {self.cost} removed{grown}"
        if self.reached < 0:
            went = f"{-self.reached:.1%} more {self.cost} than at the start{grown}"
        seeds = f" {fate}." if (fate := fates(self.report.seeds, self.grown)) else ""
        return f"{went}{asked}{measured}.{why}{seeds} See {self.report_path}"

    def _fell(self, quality: float) -> str:
        """What the metric was before anything went, where that was better."""
        before, sign = self.report.quality_unpruned, 1 if self.report.higher_is_better else -1
        is_worse = before is not None and sign * quality < sign * before
        return f" ({before:.4g} before the first mask)" if is_worse else ""


def finish(session: Session, *, latency: bool) -> Result:
    """Cuts what is masked, measures, saves and reports; see `Session.finish`."""
    if (known := _report_of_end(session)) is not None:
        return _finish_again(session, known, latency=latency)
    parts, says = session.parts, session.log.says
    if parts.network.look_seconds > progress.LONG_SECONDS:
        session.log.tell(progress.FinishBegan(session.epoch))
    outgrown = parts.growing.end_run()
    parts.strategy.end_run()
    in_flight = parts.runner.epoch_in_flight  # asked now: what is going on is dropped
    judged = says(session.pruning.end_run())
    session.log.tell_all(events.LeftWhole.of(parts.network.refused))
    training_seconds = time.perf_counter() - session.started
    timed = _latency(session) if latency else None
    if timed is not None and timed.speedup < 1.0 and _last_cut(parts.network) is not None:
        session.log.tell(events.NotFaster())
    missed = _missed(session, in_flight)
    if missed is not None:
        session.log.tell(missed)
    why = _why_nothing(session) if missed is None else says(missed.text)
    session.log.spend(session.seconds_in_esper, training_seconds)
    _save_final(session, why)
    parts.telemetry.settle()  # what a sink has not taken is among the notes
    report = _report(session, timed, training_seconds, judged, outgrown)
    return _ended(session, report, why)


def _finish_again(session: Session, report: RunReport, *, latency: bool) -> Result:
    """Nothing was trained since the run was finished: what was measured then is true, and stays."""
    ending = session.log.progress.ending
    session.pruning.cycles.drop()  # the resume may have begun one
    session.log.tell(progress.ReportStands(session.epoch))
    if latency and report.latency is None:
        report = replace(report, latency=_latency(session))
    return _ended(session, report, "" if ending is None else ending.why)


def _ended(session: Session, report: RunReport, why: str) -> Result:
    """Writes the report, lets go of the network, and says what came of the run."""
    parts = session.parts
    path = _written(report, session.run_dir)
    parts.telemetry.end_rest(session.epoch)
    session.log.tell(progress.Finished(session.epoch))
    session.detach()
    target, cost = parts.terms.config.pruning.target, parts.terms.config.pruning.cost
    return Result(
        session.model,
        report,
        path,
        session.run_dir,
        cost,
        None if target is None else target.fraction,
        _reached(session, cost),
        why,
        parts_grown(parts.network),
    )


def _written(report: RunReport, folder: Path) -> Path:
    try:
        return write_report(report, folder)
    except OSError as error:
        raise CheckpointError(
            f"The report was not written: {error.strerror} ({error.filename}). The finished network is "
            "saved. Make room there, and call finish again."
        ) from error


def _save_final(session: Session, why: str) -> None:
    """Saves the state after the last cut with the network for everybody, as a step of its own."""
    saving = session.parts.saving
    saving.settle()
    if (earlier := saving.failure()) is not None:  # what matters now is whether this save succeeds
        session.log.tell(events.SaveFailed(session.epoch, str(earlier)))
    step, made = max(session.step, saving.last_step + 1), session.log.progress
    made.ending = Ending(step, made.trained_steps, session.parts.terms.settings_id, why)
    saving.save_pinned(step, session.epoch, "final", network_files(session))


def network_files(session: Session) -> dict[str, bytes]:
    """The network as a program that needs no code, and the form that a fresh instance must take."""
    network = session.parts.network
    program = for_everybody(network.model, network.inputs.args, network.inputs.kwargs, network.free)
    form, why = None, {}
    try:
        before = Snapshot.of(_in_full(network))
        form = Form.between(before, network.model, [change.kept for change in network.changes])
    except SurgeryError as error:
        session.log.tell(events.FormUnknown(str(error), str(session.run_dir)))
        why = {FORMLESS: str(error)}
    grown = [encode(change.recipe) for change in network.changes if isinstance(change, SeedJoined)]
    form_record = None if form is None else encode(form)
    record = {"version": VERSION, "form": form_record, GROWN: grown, **why}
    return {PROGRAM_FILE: write_program(program), FORM_FILE: json.dumps(record).encode()}


def _in_full(network: LiveNetwork) -> nn.Module:
    """The network from before all changes, with everything that has grown since as it was at birth."""
    if network.original is None:
        return network.model
    whole = copied(network.original)
    for change in network.changes:
        if isinstance(change, SeedJoined):
            change.recipe.graft(whole, network.blueprints)
    return whole


def _latency(session: Session) -> Latency | None:
    network = session.parts.network
    if network.original is None:
        return None
    inputs = network.inputs
    size = 64 if inputs.is_batch_dynamic else None
    return compare_latency(network.original, network.model, inputs.args, dict(inputs.kwargs), size)


def _reached(session: Session, cost: CostName) -> float:
    """Share of the original cost that was cut; what stays a mask has not gone."""
    parts = session.parts
    return Situation.whole(parts.network.anatomy, parts.terms.origin).removed_fraction(cost)


def _missed(session: Session, in_flight: int | None) -> Event | None:
    """That the target was missed, why, and what to do about it; None if it was met, or there is none."""
    parts, terms = session.parts, session.parts.terms
    target = terms.config.pruning.target
    if target is None:
        return None
    if parts.pool is None:
        return events.NothingWent(target.cost, parts.why_off)
    marks = session.log.marks
    refused, back = (
        next(((mark.epoch, mark.text) for mark in reversed(marks) if mark.kind == kind), None)
        for kind in ("no_go", "rollback")
    )
    end = RunEnd(
        _reached(session, target.cost),
        session.epoch,
        refused=refused,
        taken_back=back,
        masked=terms.removed_fraction(parts.network),
        broken=parts.network.not_numbers(),
        rebuilt=(rebuilt(parts.network) or ("",))[0],
        uncut=session.pruning.acting.uncut,
        unmeasured=terms.metric
        if all(row.metric is None for row in session.log.records(terms.metric))
        else "",
        late=in_flight,
        grown=grown_fraction(parts.network, terms.origin, target.cost),
        seeds=last_grown(session.log.seeds),
        has_stepped=session.step > 0,
        reach=out_of_reach(parts.network, terms),
        is_unsaid=any(why.startswith(UNSAID) for why in parts.network.refused.values()),
    )
    schedule = Schedule(terms.config.pruning, terms.epochs)
    why = why_missed(target, end, schedule, parts.runner.coordinator.state)
    return events.TargetMissed(why) if why else None


def _why_nothing(session: Session) -> str:
    """Why a run without a target has pruned nothing, and what to do; '' if it has, or has grown instead."""
    parts = session.parts
    if parts.pool is not None or parts.network.changes or parts.strategy.is_asked or session.log.seeds:
        return ""
    return parts.why_off or assumed.NoTarget().text


def _quality(session: Session, judged: str, outgrown: str) -> tuple[float | None, str]:
    """The metric of the finished network, if the last epoch measured it, and where it comes from."""
    rows, name, network = session.log.epochs, session.parts.terms.metric, session.parts.network
    measured = [row for row in rows if math.isfinite(row.metrics.get(name, math.nan))]
    if not measured:
        return None, f"{name} was never measured"
    last, keep = measured[-1], network.masks.keep
    # A cut changes nothing that a mask has not; a mask, or one that was taken back, does.
    is_same = last.parameters == network.anatomy.parameters(keep) and math.isclose(
        last.flops, network.anatomy.flops(keep), rel_tol=1e-9
    )
    is_at_end = last.measured_step is None and last.step == session.log.progress.trained_steps
    moment = session.log.says(f"epoch {last.epoch}")
    if last is rows[-1] and is_same and is_at_end and not outgrown:
        return last.metrics[name], f"measured in {moment}"
    when = f"in {moment}" if last.measured_step is None else f"at step {last.measured_step}, in {moment}"
    since = judged or outgrown or "the network has changed since"
    return None, f"last measured {when}: {last.metrics[name]:.4g}. {since}"


def _report(
    session: Session, latency: Latency | None, training_seconds: float, judged: str, outgrown: str
) -> RunReport:
    parts = session.parts
    network, terms = parts.network, parts.terms
    before = network.changes[0].before if network.changes else network.anatomy
    names = {group.name: group.width for group in network.anatomy.groups}
    left = {
        (member.tensor, member.axis, group.kind): group.width
        for group in network.anatomy.groups
        for member in group.members
    }
    original = network.original or network.model
    stalls = parts.saving.stalls
    made = _last_cut(network)
    quality, source = _quality(session, judged, outgrown)
    share, at_steps = parts.tracker.overhead_share, parts.telemetry.at_steps.share
    rows = session.log.epochs
    return RunReport(
        title=session.run_dir.name,
        model=type(network.model).__name__,
        metric=terms.metric,
        higher_is_better=terms.higher_is_better,
        epochs=tuple(rows),
        marks=session.log.moments(),
        widths=tuple(
            WidthRow(group.name, group.kind.value, group.width, names.get(group.name, _left(group, left)))
            for group in before.groups
        ),
        decisions=tuple(session.log.progress.decisions),
        seeds=tuple(session.log.seeds),
        programs=session.log.programs,
        flops_before=terms.origin.flops,
        flops_after=network.anatomy.flops(),
        parameters_before=terms.origin.parameters,
        parameters_after=network.anatomy.parameters(),
        bytes_before=_bytes(original),
        bytes_after=_bytes(network.model),
        latency=latency,
        quality_after=quality,
        quality_source=source,
        proof=None
        if made is None
        else Proof(
            made.equivalence.float32_error,
            made.equivalence.float64_error,
            made.equivalence.gradient_error,
            None,
            made.equivalence.samples,
        ),
        overhead=Overhead(
            tracking_fraction=None if share != share else share,
            checkpoint_stall_ms_per_gb=float(np.median(stalls)) if stalls else None,
            training_seconds=session.log.running_seconds,
            esper_seconds=session.log.waited_seconds,
            counting_fraction=None if at_steps != at_steps else at_steps,
        ),
        workers=worker_rows(parts.pool),
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} torch thread(s)",
        },
        notes=tuple(session.log.notes),
        period_steps=terms.pace.every_n_steps,
        promises=parts.telemetry.promises.standing((session.seconds_in_esper, training_seconds)),
    )


def _last_cut(network: LiveNetwork) -> Cut | None:
    """The last cut with its proof, by this process or made and proven again by a resume."""
    cuts = (change.cut for change in reversed(network.changes) if isinstance(change, UnitsCut))
    return next(cuts, None)


def _left(group: Group, widths: Mapping[tuple[str, int, Kind], int]) -> int:
    """Units that are left of a group that is called otherwise by now; none if it has gone with its layer."""
    places = ((member.tensor, member.axis, group.kind) for member in group.members)
    return max((widths.get(place, 0) for place in places), default=0)


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def _report_of_end(session: Session) -> RunReport | None:
    """What was written when the run was finished, if it is about the network of now.

    Returns:
        None if anything was done or asked for since, if the run was not finished, or if its report is not
        there: a process may be killed before it is written.
    """
    ending, parts = session.log.progress.ending, session.parts
    if ending is None or ending.settings_id != parts.terms.settings_id:
        return None
    is_at_end = session.step == ending.checkpoint == parts.saving.last_step
    if not is_at_end or parts.network.masks.num_masked or parts.growing.is_under_way:
        return None
    try:
        report = RunReport.read(session.run_dir / REPORT_FILE)
    except (OSError, ContractError):  # one is made anew
        return None
    is_of_now = (
        [_way(row) for row in report.epochs] == [_way(row) for row in session.log.epochs]
        and report.marks == session.log.moments()
        and report.parameters_after == parts.network.anatomy.parameters()
    )
    return report if is_of_now else None


def _way(row: EpochRow) -> tuple[int, int, float, int]:
    """A row without what was measured, which need not be a number and then equals nothing."""
    return row.epoch, row.step, row.flops, row.parameters
