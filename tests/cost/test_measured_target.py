"""A target in time: measured once, cut by the table, and the table goes on with the run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tests.session.runs import Training

TIME = {"target": {"latency": 0.2, "latency_batch": 64}, "schedule": {"start_epoch": 2, "end_epoch": 5}}


class Wide(Training):
    """A network that takes long enough to be faster with half of its width, whatever the machine does."""

    @staticmethod
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 4)
        )


def test_a_run_with_a_target_in_time_is_timed_once_and_pruned_by_its_table(tmp_path: Path) -> None:
    first = Wide(tmp_path, pruning=TIME)
    first.until_masked()
    first.epoch(lambda _: 0.5)
    origin, share = first.session.parts.terms.origin, first.session.removed_fraction
    first.session.detach()
    assert origin.latency is not None
    assert len(origin.latency.operators) == 3
    assert share > 0
    again = Wide(tmp_path, pruning=TIME)
    assert again.session.parts.terms.origin == origin
    assert again.session.removed_fraction == share
    result = again.session.finish(latency=False)
    assert sum(p.numel() for p in result.model.parameters()) < origin.parameters
