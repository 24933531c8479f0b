"""What the tracker knows when an analysis begins; it travels to the workers with the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.arrays import FloatArray
from esper.importance.history import UnitHistory
from esper.importance.phases import TrainingPhase
from esper.importance.settings import ImportanceSettings
from esper.importance.statistics import UnitStatistics

HISTORY = "history."
"""Prefix of the history's tensors in the state of a tracker."""


@dataclass(frozen=True, eq=False)
class TrackedEvidence:
    """Scores of all units: arrays of shape [units], NaN unmeasured.

    Attributes:
        fisher: From sampled weight x gradient products; leads where the optimizer keeps no second moments.
        history: The importance rank that earlier analyses let expect, 0 to 1.
        weights: Signal name to weight, in this phase of the training.
        twin_samples: Held-out samples on which the analysis may measure every unit's effect on the loss.
        twin_flops: Work that this may take.
    """

    fisher: FloatArray
    history: FloatArray
    weights: Mapping[str, float]
    twin_samples: int = 0
    twin_flops: float = 0.0

    @classmethod
    def of(
        cls,
        statistics: UnitStatistics,
        history: UnitHistory,
        settings: ImportanceSettings,
        phase: TrainingPhase,
    ) -> TrackedEvidence:
        """What these tell, with the weights of the signals in this phase."""
        return cls(
            statistics.fisher(settings.momentum, settings.min_importance_samples, settings.min_sampled_steps),
            history.expected(settings.trend_epochs),
            settings.weights.at(phase).model_dump(),
            settings.twin_samples,
            settings.twin_flops,
        )

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], num_units: int, settings: ImportanceSettings, phase: TrainingPhase
    ) -> TrackedEvidence:
        """The same from the state of a tracker in a checkpoint, where network and optimizer need not exist.

        Raises:
            EvidenceError: it is no state of a tracker of so many units.
        """
        statistics = UnitStatistics.from_state(state, num_units, torch.device("cpu"))
        history = UnitHistory(num_units, settings.history_epochs, settings.history_momentum)
        history.load_state(part_of(state, HISTORY))
        return cls.of(statistics, history, settings, phase)


def part_of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a tracker's state whose names begin so, without that."""
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
