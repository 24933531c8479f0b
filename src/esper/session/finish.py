"""The end of a run: the last cut, what it is worth, the report, and a network that loads without its code."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from esper.anatomy import Group, Kind
from esper.anatomy.cut import Form, Snapshot
from esper.anatomy.twin import deployed, to_bytes
from esper.cost import compare_latency
from esper.errors import SurgeryError
from esper.report import Latency, Overhead, Proof, RunReport, WidthRow, write_report
from esper.runs.network import FORM_FILE, PROGRAM_FILE, VERSION

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
    """

    model: nn.Module
    report: RunReport
    report_path: Path
    run_dir: Path


def finish(session: Session, *, latency: bool) -> Result:
    """Cuts what is masked, measures, saves and reports; see `Session.finish`."""
    parts = session.parts
    if parts.runner is not None:
        parts.runner.drop()
    session.masking.cut_masked()
    for group, why in parts.network.refused.items():
        session.log.note(f"{group} was left whole: {why}")
    training_seconds = time.perf_counter() - session.started
    timed = _latency(session) if latency else None
    if timed is not None and timed.speedup < 1.0:
        session.log.note("The cut network is not faster on this machine; what it saves is memory and FLOPs.")
    session.save_final(network_files(session))
    report = _report(session, timed, training_seconds)
    session.detach()
    path = write_report(report, session.run_dir)
    return Result(session.model, report, path, session.run_dir)


def network_files(session: Session) -> dict[str, bytes]:
    """The network as a program that needs no code, and the form that a fresh instance must take."""
    network = session.parts.network
    program = deployed(network.model, network.inputs.args, network.inputs.kwargs)
    form: Form | None = None
    try:
        before = Snapshot.of(network.original or network.model)
        form = Form.between(before, network.model, [past.made.kept for past in network.cuts])
    except SurgeryError as error:
        session.log.note(f"{error} esper.load({str(session.run_dir)!r}) works all the same.")
    record = {"version": VERSION, "form": None if form is None else form.to_json()}
    return {PROGRAM_FILE: to_bytes(program), FORM_FILE: json.dumps(record).encode()}


def _latency(session: Session) -> Latency | None:
    network = session.parts.network
    if network.original is None:
        return None
    inputs = network.inputs
    return compare_latency(network.original, network.model, inputs.args, dict(inputs.kwargs))


def _report(session: Session, latency: Latency | None, training_seconds: float) -> RunReport:
    parts = session.parts
    network, origin = parts.network, parts.origin
    before = network.cuts[0].anatomy if network.cuts else network.anatomy
    names = {group.name: group.width for group in network.anatomy.groups}
    left = {
        (member.tensor, member.axis, group.kind): group.width
        for group in network.anatomy.groups
        for member in group.members
    }
    original = network.original or network.model
    stalls = parts.saving.stalls
    made = session.masking.last_cut
    share = parts.tracker.overhead_share
    rows = session.log.epochs
    return RunReport(
        title=session.run_dir.name,
        model=type(network.model).__name__,
        metric=parts.metric,
        higher_is_better=parts.higher_is_better,
        epochs=tuple(rows),
        marks=session.log.moments(),
        widths=tuple(
            WidthRow(group.name, group.kind.value, group.width, names.get(group.name, _left(group, left)))
            for group in before.groups
        ),
        decisions=tuple(session.log.decisions),
        flops_before=origin.flops,
        flops_after=network.anatomy.flops(),
        parameters_before=origin.parameters,
        parameters_after=network.anatomy.parameters(),
        bytes_before=_bytes(original),
        bytes_after=_bytes(network.model),
        latency=latency,
        quality_after=rows[-1].metrics.get(parts.metric) if rows else None,
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
            training_seconds=training_seconds,
            esper_seconds=session.seconds_in_esper,
        ),
        workers=parts.workers(),
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} torch thread(s)",
        },
        notes=tuple(session.log.notes),
    )


def _left(group: Group, widths: Mapping[tuple[str, int, Kind], int]) -> int:
    """Units that are left of a group that is called otherwise by now; none if it has gone with its layer."""
    places = ((member.tensor, member.axis, group.kind) for member in group.members)
    return max((widths.get(place, 0) for place in places), default=0)


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
