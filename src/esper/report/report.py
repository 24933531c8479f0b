"""What one run did, as numbers: the value behind `report.json`, the HTML page and the command line's table.

What was not measured is None and is shown as "not measured"; it is never 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from esper.errors import ContractError
from esper.files import open_plain
from esper.leyline import decode
from esper.nissa import MarkKind
from esper.report.promises import Promise


@dataclass(frozen=True)
class EpochRow:
    """The state at the end of one epoch, or period of steps.

    `flops` (of one forward pass for one sample) and `parameters` count masked units as gone. The metrics are
    of the step `measured_step`; None: of its end.
    """

    epoch: int
    step: int
    metrics: Mapping[str, float]
    flops: float
    parameters: int
    masked_units: int
    seconds: float
    measured_step: int | None = None


@dataclass(frozen=True)
class Mark:
    """A moment where Esper acted, or decided not to."""

    epoch: int
    kind: MarkKind
    text: str


@dataclass(frozen=True)
class WidthRow:
    """Units of one group before and after the run; `kind` is `channel` or `head`."""

    group: str
    kind: str
    before: int
    after: int


@dataclass(frozen=True)
class Latency:
    """Median time of one forward pass of both networks, timed by turns in one process.

    The spreads are distances between the quartiles of the `repeats` timings.
    """

    batch_size: int
    before_ms: float
    after_ms: float
    before_spread_ms: float
    after_spread_ms: float
    device: str
    repeats: int

    @property
    def speedup(self) -> float:
        """How many times faster the network became."""
        return self.before_ms / self.after_ms

    @property
    def is_noise(self) -> bool:
        """Whether the timings of one network spread by more than the medians of both differ."""
        return max(self.before_spread_ms, self.after_spread_ms) > abs(self.before_ms - self.after_ms)


NOT_APPLIED = ", not applied"
"""Ends the verdict of what was accepted and never done to the network."""


@dataclass(frozen=True)
class DecisionRow:
    """What was decided about `units` units of one group, and the evidence for it.

    `score` is the screening score, `confidence` the share of resamples (0..1) that agree, `loss_increase` the
    exact rise of the loss when the units are ablated. `verdict` begins with the word of the judgement
    (`go`, `no_go`, `conditional`, `rejected`), and ends with `NOT_APPLIED` where nothing came of it.
    """

    epoch: int
    group: str
    kind: str
    units: int
    score: float | None
    confidence: float | None
    loss_increase: float | None
    verdict: str
    reason: str


@dataclass(frozen=True)
class SeedRow:
    """One step on the way of a seed, from a stage to another or to the same, and the evidence for it."""

    epoch: int
    slot: str
    blueprint: str
    before: str
    after: str
    evidence: str


@dataclass(frozen=True)
class ArmRow:
    """One of several trainings that are compared, as it was when it was over.

    `spent` are the training FLOPs when each epoch was over, `values` the deciding metric then. `flops` are
    those of a forward pass for one sample. `wins` are the test samples that only the run of this report does
    right, `losses` those that only this arm does right; both are 0 for the run itself.
    """

    name: str
    spent: tuple[float, ...]
    values: tuple[float, ...]
    flops: float
    parameters: int
    wins: int = 0
    losses: int = 0


@dataclass(frozen=True)
class Proof:
    """Largest absolute differences between the cut and the masked network over `samples` held-out samples."""

    float32_error: float | None
    float64_error: float | None
    gradient_error: float | None
    optimizer_step_error: float | None
    samples: int


@dataclass(frozen=True)
class Overhead:
    """What Esper cost. `esper_seconds` is the part of `training_seconds` that training waited for Esper.

    Of a training step tracking takes `tracking_fraction`, and counting and telemetry `counting_fraction`.
    """

    tracking_fraction: float | None
    checkpoint_stall_ms_per_gb: float | None
    training_seconds: float | None
    esper_seconds: float | None
    counting_fraction: float | None = None

    @property
    def esper_fraction(self) -> float | None:
        """Share of the training time that went to Esper, 0..1."""
        if self.training_seconds is None or self.esper_seconds is None or self.training_seconds <= 0:
            return None
        return self.esper_seconds / self.training_seconds


@dataclass(frozen=True)
class WorkerRow:
    """What became of the tasks of one analysis worker, in attempts.

    `failed` raised an error; `killed` died or were stopped at their limit of time or memory. `peak_bytes` is
    the most memory that its process has held. `condition` says whether the last attempt ended by itself
    (`ok`, `failing`, `unknown`), `message` what the last trouble was.
    """

    worker: int
    done: int
    failed: int
    killed: int
    peak_bytes: int | None
    condition: str
    message: str = ""


@dataclass(frozen=True)
class RunReport:
    """A finished run: what it was, what Esper did to it, and by how much it became smaller.

    `metric` names the entry of `EpochRow.metrics` that decided. `twin_epochs` are those of the same network
    trained uncut; they may be empty. `quality_after` is None where the metric was last measured on a network
    other than the finished one; `quality_source` says when it was, and what is known since. `workers` is
    empty where no process did any work. Bytes are those of the parameters and buffers. `period_steps` says
    of how many optimizer steps a row is that is no epoch. `arms` are the trainings that the run was compared
    with, itself first. `programs` are those that `torch.compile` made in epochs with a seed on its way; None:
    there was no seed, or nobody counted. `promises` says which of Esper's own were kept.
    """

    title: str
    model: str
    metric: str
    higher_is_better: bool
    epochs: tuple[EpochRow, ...]
    flops_before: float
    flops_after: float
    parameters_before: int
    parameters_after: int
    bytes_before: int | None
    bytes_after: int | None
    twin_epochs: tuple[EpochRow, ...] = ()
    marks: tuple[Mark, ...] = ()
    widths: tuple[WidthRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()
    seeds: tuple[SeedRow, ...] = ()
    programs: int | None = None
    latency: Latency | None = None
    quality_before: float | None = None
    quality_after: float | None = None
    quality_source: str = ""
    proof: Proof | None = None
    overhead: Overhead | None = None
    workers: tuple[WorkerRow, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    period_steps: int | None = None
    arms: tuple[ArmRow, ...] = ()
    promises: tuple[Promise, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RunReport:
        """Reads `report.json`.

        Raises:
            ContractError: The file is not JSON, or not a report.
        """
        try:
            with open_plain(path) as file:
                data = json.load(file)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ContractError(
                f"{path} is not JSON: {error}. Name the report.json of a finished run."
            ) from error
        return decode(cls, data)

    @property
    def unit(self) -> str:
        """What a row is: an epoch, or a period."""
        return "epoch" if self.period_steps is None else "period"

    @property
    def values(self) -> dict[int, float]:
        """The deciding metric by epoch, where it was reported."""
        return _values(self.epochs, self.metric)

    @property
    def quality_unpruned(self) -> float | None:
        """The metric when the first mask was applied, and the network was whole; None: not measured."""
        first = min((mark.epoch for mark in self.marks if mark.kind == "mask"), default=0)
        return next((value for epoch, value in reversed(self.values.items()) if epoch <= first), None)

    @property
    def twin_values(self) -> dict[int, float]:
        """The same of the uncut twin."""
        return _values(self.twin_epochs, self.metric)

    @property
    def lead_over_twin(self) -> dict[int, float]:
        """By how much the run was better than its uncut twin at each epoch; negative means worse."""
        sign = 1.0 if self.higher_is_better else -1.0
        twin = self.twin_values
        return {epoch: sign * (value - twin[epoch]) for epoch, value in self.values.items() if epoch in twin}

    @property
    def worst_lead(self) -> float | None:
        """The lead at the epoch where the run was furthest behind its twin; None without a common epoch."""
        return min((lead for lead in self.lead_over_twin.values() if math.isfinite(lead)), default=None)

    @property
    def final_lead(self) -> float | None:
        """The lead at the last epoch that both reported."""
        lead = self.lead_over_twin
        return lead[max(lead)] if lead else None


def _values(rows: tuple[EpochRow, ...], metric: str) -> dict[int, float]:
    return {row.epoch: row.metrics[metric] for row in rows if metric in row.metrics}
