"""Runs that came no further than their beginning make room for the next one; all others stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import esper
from esper.checkpoint import holds_checkpoints
from esper.errors import CheckpointError
from esper.integrations.beginning import set_aside
from tests.integrations.task import Network, Vectors, settings


def begun(run_dir: Path) -> esper.Session:
    network, data = Network(), Vectors(0, 64)
    return esper.attach(
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        loss=lambda output, labels: torch.nn.functional.cross_entropy(output["logits"], labels),
        sample=(data.inputs[:2], data.labels[:2]),
        probe=[(data.inputs, data.labels)],
        run_dir=run_dir,
        config={**settings(), "pruning": {"target": {"flops": 0.5}}},
        epochs=10,
    )


def test_a_run_that_only_began_is_moved_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert set_aside(run) is None
    session = begun(run)
    with pytest.raises(CheckpointError, match="already being written"):
        set_aside(run)
    session.detach()
    names = {path.relative_to(run) for path in run.rglob("*") if not path.name.startswith(".writer")}
    for number in (1, 2):
        place = set_aside(run)
        assert place == tmp_path / f"run.begun-{number}"
        assert not holds_checkpoints(run)
        assert names <= {path.relative_to(place) for path in place.rglob("*")}
        begun(run).detach()


@pytest.mark.parametrize(
    "more",
    [
        "checkpoints/step-000000032",
        "checkpoints/pins/step-000000000.framework",
        "report.json",
        "trainer",
    ],
)
def test_what_holds_more_stays_where_it_is(tmp_path: Path, more: str) -> None:
    run = tmp_path / "run"
    begun(run).detach()
    (run / more).mkdir()
    assert set_aside(run) is None
    assert holds_checkpoints(run)
