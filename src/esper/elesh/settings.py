"""How much is analyzed, and with what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from esper.settings import Count, Fraction, PositiveCount, Seconds, Section


class HeadWeights(Section):
    """What attention patterns add to the screening score of heads, beside `importance.weights`."""

    diversity: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the rank by how far a head's pattern is from the most similar one (Jensen-Shannon)."""

    focus: Annotated[float, Field(ge=0.0)] = 0.1
    """Weight of the rank by how focused a head's pattern is (1 - normalized entropy)."""


class AnalysisSettings(Section):
    """The settings of the offline analysis."""

    workers: Count | None = None
    """Worker processes; 0: analyze in the training process; unset: as many as cores beside one, and more than
    four only where the number of parameters asks for them (parameters x levels / (500,000 per second x
    time))."""

    calibration_samples: PositiveCount = 256
    """Held-out samples on which units are measured and what reads them is made up for."""

    held_out_samples: PositiveCount = 1024
    """Further held-out samples on which a plan is validated."""

    batch_samples: Annotated[int, Field(ge=2)] = 16
    """Samples of one calibration batch; batches are what the bootstrap resamples."""

    min_optimizer_steps: PositiveCount = 100
    """Optimizer steps before its second moments count as evidence; until then every unit is unmeasured."""

    units_per_task: PositiveCount = 64
    """Units that one worker task ablates, when staged."""

    measure_twin: bool = False
    """Between screen and ablation, measure every unit on the twin: exact first-order change of the loss,
    activation frequency, redundancy of channels, patterns of heads. Costs a forward and backward pass over
    the calibration samples for every `layers_per_task` layers."""

    layers_per_task: PositiveCount = 8
    """Layers that one worker task measures on the twin."""

    activation_threshold: Annotated[float, Field(ge=0.0)] = 1e-3
    """An element of an activation that is larger than this in size is active."""

    redundancy_threshold: Fraction = 0.95
    """Correlation from which on channels count as one signal; the best of them stays."""

    head_weights: HeadWeights = HeadWeights()
    """What the patterns of attention heads add to their score."""

    memory_bytes: PositiveCount = 4 << 30
    """Most memory that one worker may use, beside mapped files."""

    max_wait_seconds: Seconds | None = None
    """How long an epoch end waits for the analysis of the epoch before; then it is applied at a later one.
    Unset: as long as an epoch takes, but 10 seconds at least and 60 at most. Who waits longer than an epoch
    could as well train one."""
