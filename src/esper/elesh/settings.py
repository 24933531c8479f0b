"""How much is analyzed, and with what."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from esper.config_types import Count, PositiveCount, Seconds, Section


class AnalysisSettings(Section):
    """The settings of the offline analysis."""

    workers: Count | None = None
    """Worker processes; 0: analyze in the training process; unset: as many as cores, at most four."""

    calibration_samples: PositiveCount = 256
    """Held-out samples on which finalists are ablated."""

    held_out_samples: PositiveCount = 1024
    """Further held-out samples on which a plan is validated."""

    batch_samples: Annotated[int, Field(ge=2)] = 16
    """Samples of one calibration batch; batches are what the bootstrap resamples."""

    min_optimizer_steps: PositiveCount = 100
    """Optimizer steps before its second moments count as evidence; until then every unit is unmeasured."""

    units_per_task: PositiveCount = 64
    """Units that one worker task ablates."""

    memory_bytes: PositiveCount = 4 << 30
    """Most memory that one worker may use, beside mapped files."""

    max_wait_seconds: Seconds = 60.0
    """How long an epoch end waits for the analysis of the epoch before; then it is applied at a later one."""
