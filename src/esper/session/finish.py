"""The end of a run: the last cut, what it is worth, the report, and a network that loads without its code."""

from __future__ import annotations

import io
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from esper.anatomy.trace import undisturbed
from esper.nissa import Latency, Overhead, Proof, RunReport, WidthRow, write_report
from esper.session.latency import compare_latency
from esper.session.saving import NETWORK_FILE

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
    session.save_final({NETWORK_FILE: exported(session)})
    report = _report(session, timed, training_seconds)
    session.detach()
    path = write_report(report, session.run_dir)
    return Result(session.model, report, path, session.run_dir)


def exported(session: Session) -> bytes:
    """The network as an archive that loads without its code: eval mode, any batch size if possible."""
    network = session.parts.network
    args, kwargs = network.probe.args, dict(network.probe.kwargs)
    batch = {
        leaf.shape[0]
        for leaf in pytree.tree_leaves((args, kwargs))
        if isinstance(leaf, torch.Tensor) and leaf.dim()
    }

    def dynamic(leaf: object) -> object:
        same = isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and len(batch) == 1
        return {0: Dim.AUTO} if same else None

    shapes = (pytree.tree_map(dynamic, args), pytree.tree_map(dynamic, kwargs))
    with undisturbed(network.model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = _Named(network.model)
        program = torch.export.export(spec, (args, kwargs), dynamic_shapes=shapes, strict=False)
        program._example_inputs = None  # they would be pickled
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


class _Named(nn.Module):
    """Calls the network with explicit positional and keyword inputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        return self.model(*args, **kwargs)


def _latency(session: Session) -> Latency | None:
    network = session.parts.network
    if network.original is None:
        return None
    probe = network.probe
    return compare_latency(network.original, network.model, probe.args, dict(probe.kwargs))


def _report(session: Session, latency: Latency | None, training_seconds: float) -> RunReport:
    parts = session.parts
    network, origin = parts.network, parts.origin
    after = {group.name: group for group in network.anatomy.groups}
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
        marks=tuple(session.log.marks),
        widths=tuple(
            WidthRow(name, after[name].kind.value, width, after[name].width)
            for name, width in origin.widths.items()
            if name in after
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
        environment={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} torch thread(s)",
        },
        notes=tuple(session.log.notes),
    )


def _bytes(model: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
