"""A run that removes whole layers: masked, judged, cut, resumed, taken back and loaded again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import ConfigError
from tests.session.runs import EPOCHS, Training

LAYERS: dict[str, Any] = {
    "pruning": {
        "target": {"flops": 0.4},
        "schedule": {"start_epoch": 2, "end_epoch": 5, "levels": ["layer"], "overshoot_fraction": 0.2},
        "floors": {"min_layers": 1, "min_layers_fraction": 0.3},
    },
    "validation": {"limits": {"layer": 0.5}, "min_retention": 0.01},
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        sum_: Tensor = x + self.down(torch.relu(self.up(x)))
        return sum_


def residual_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), *(Block() for _ in range(5)), nn.Linear(12, 4))


class Residual(Training):
    build = staticmethod(residual_network)


class Averaged(Residual):
    """With a running average of its weights."""

    average: nn.Module

    def companions(self) -> Sequence[nn.Module]:
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        return [self.average]


@contextmanager
def run(path: Path, **changes: Any) -> Iterator[Residual]:
    training = Residual(path, **{**LAYERS, **changes})
    try:
        yield training
    finally:
        training.session.detach()


def layers_left(training: Training) -> int:
    return int(training.session.parts.network.anatomy.is_layer.sum())


def test_layers_go_and_the_small_network_loads_with_and_without_its_code(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        for _ in range(EPOCHS):
            training.epoch()
        result = training.session.finish(latency=False)
        left = layers_left(training)
        assert left < 5
        assert result.report.flops_after < 0.9 * result.report.flops_before
        rows = {row.group: row for row in result.report.widths}
        assert sum(row.after for row in rows.values() if row.kind == "layer") == left
        gone = [name for name, row in rows.items() if row.kind == "layer" and row.after == 0]
        inside = [rows[name.removeprefix("layer:").replace("down", "up")] for name in gone]
        assert all((row.before, row.after) == (16, 0) for row in inside)
        assert {row.kind for row in result.report.decisions} == {"layer"}
        x = training.held_out[0]
        training.model.eval()
        expected = training.model(x)
        assert torch.equal(esper.load(tmp_path)(x), expected)
        fresh = residual_network()
        esper.load(tmp_path, model=fresh)
        assert torch.equal(fresh.eval()(x), expected)


def test_a_resumed_run_goes_on_bit_for_bit_masks_and_cut_layers_included(tmp_path: Path) -> None:
    with run(tmp_path / "whole") as whole:
        for _ in range(EPOCHS):
            whole.epoch()
        expected, left = whole.fingerprint(), layers_left(whole)
    assert left < 5
    seen, found = [], ""
    for end in (3, 4, EPOCHS):  # with a mask, with a cut, to the end
        with run(tmp_path / "parts") as part:
            while part.session.epoch < end:
                part.epoch()
            network, found = part.session.parts.network, part.fingerprint()
            seen.append((network.masks.num_masked > 0, len(network.changes) > 0))
    assert found == expected
    assert seen[0] == (True, False)
    assert seen[1][1]


def test_a_rollback_brings_a_cut_layer_back(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        network = training.session.parts.network
        before = {name: value.shape for name, value in training.model.state_dict().items()}
        training.until(lambda: bool(network.changes))
        assert len(training.model.state_dict()) < len(before)
        training.session.rollback(0)
        assert {name: value.shape for name, value in training.model.state_dict().items()} == before
        assert layers_left(training) == 5
        training.epoch()


def test_a_rollback_from_weights_that_are_no_numbers_brings_a_cut_layer_back(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        network = training.session.parts.network
        training.until(lambda: bool(network.changes))
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.fill_(float("nan"))
        training.session.rollback(0)
        assert layers_left(training) == 5
        training.epoch()


def test_an_average_of_the_weights_loses_its_layers_and_gets_them_back(tmp_path: Path) -> None:
    first = Averaged(tmp_path, **LAYERS)
    whole = set(first.average.state_dict())
    first.until(lambda: bool(first.session.parts.network.changes))
    cut = set(first.average.state_dict())
    assert cut < whole
    first.session.detach()
    again = Averaged(tmp_path, **LAYERS)
    assert set(again.average.state_dict()) == cut
    again.session.rollback(0)
    assert set(again.average.state_dict()) == whole
    again.session.detach()


def test_layers_cannot_join_a_run_that_began_without_them(tmp_path: Path) -> None:
    channels = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 2, "end_epoch": 5}}
    with run(tmp_path, pruning=channels) as training:
        training.epoch()
    with pytest.raises(ConfigError, match="began without whole layers"), run(tmp_path):
        pass
