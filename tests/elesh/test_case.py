"""A case is what workers get: verified files, and the tensors under a mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.batches import HeldOut
from esper.checkpoint import load_tensors
from esper.elesh.case import open_case, read_data, read_optimizer
from esper.elesh.screening import screen
from esper.errors import CheckpointCorrupt
from tests.checkpoint.runs import flip
from tests.elesh.cases import examples, saved


def test_an_open_case_holds_the_network_as_it_was_saved(tmp_path: Path) -> None:
    made = saved(tmp_path, masked=(3, 30))
    opened = open_case(made.case)
    assert opened.anatomy.digest == made.anatomy.digest
    assert np.flatnonzero(~opened.keep).tolist() == [3, 30]
    x, y = examples(9, 7)
    assert torch.equal(opened.twin.loss(opened.state, (x, y))[0], F.cross_entropy(made.model(x), y))


def test_masking_a_case_leaves_its_own_tensors_alone(tmp_path: Path) -> None:
    made = saved(tmp_path)
    opened = open_case(made.case)
    keep = np.ones(made.anatomy.num_units, np.bool_)
    keep[5] = False
    before = {name: value.clone() for name, value in opened.state.items()}
    masked = opened.masked_state(keep)
    assert not masked["0.weight"][5].count_nonzero()
    assert not masked["2.weight"][:, 5].count_nonzero()
    assert masked["4.weight"] is opened.state["4.weight"]
    assert all(torch.equal(value, before[name]) for name, value in opened.state.items())


class Backwards(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 6)
        self.outer = nn.Linear(6, 4)
        self.again = self.outer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(x).relu()
        out: torch.Tensor = self.outer(hidden) + self.again(hidden * 2)
        return out


def test_every_name_of_a_tied_tensor_is_masked(tmp_path: Path) -> None:
    made = saved(tmp_path, build=Backwards, steps=2)
    opened = open_case(made.case)
    keep = np.ones(made.anatomy.num_units, np.bool_)
    keep[2] = False
    masked = opened.masked_state(keep)
    assert masked["again.weight"] is masked["outer.weight"]
    assert not masked["again.weight"][:, 2].count_nonzero()


@pytest.mark.parametrize("name", ["model", "twin", "anatomy"])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    made = saved(tmp_path, steps=1)
    file = getattr(made.case, name)
    flip(file.path, file.size // 2)
    with pytest.raises(CheckpointCorrupt):
        open_case(made.case)


def test_altered_data_is_refused(tmp_path: Path) -> None:
    made = saved(tmp_path, steps=1)
    flip(made.case.data.tensors.path, made.case.data.tensors.size - 1)
    with pytest.raises(CheckpointCorrupt):
        read_data(made.case.data)


def test_data_comes_back_as_it_was(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    named = {"x": x, "flag": True, "labels": torch.arange(4)}
    kept = HeldOut((named,), (named, named))
    made = saved(tmp_path, steps=1, held_out=kept)
    sample, held_out = read_data(made.case.data)
    assert all(map(torch.equal, sample, examples(4, 0)))
    assert len(held_out.validation) == 2
    assert torch.equal(held_out.calibration[0]["x"], x)
    assert held_out.calibration[0]["flag"] is True


def test_optimizer_state_is_found_by_the_parameters_names(tmp_path: Path) -> None:
    made = saved(tmp_path, steps=5)
    assert made.case.optimizer is not None
    states, groups = read_optimizer(made.case.optimizer, load_tensors(made.case.optimizer.tensors))
    shapes = {name: p.shape for name, p in made.model.named_parameters()}
    assert {name: state["exp_avg_sq"].shape for name, state in states.items()} == shapes
    assert {float(state["step"]) for state in states.values()} == {5.0}
    assert groups.keys() == shapes.keys()
    assert replace(made.case, optimizer=None).optimizer is None


class InWaves(nn.Module):
    """Complex weights between a spectrum that is written in part and its modulus."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(5, 6, dtype=torch.cfloat), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.zeros(len(x), 5, dtype=torch.cfloat)
        spectrum[:, :4] = torch.fft.rfft(x)[:, :4]
        out: torch.Tensor = self.outer(self.inner(spectrum).abs())
        return out


def test_complex_weights_are_what_the_network_computes_with(tmp_path: Path) -> None:
    made = saved(tmp_path, build=InWaves, steps=3)
    opened = open_case(made.case)
    assert opened.state["inner.weight"].dtype == torch.complex64
    x, y = examples(9, 7)
    ours = opened.twin.loss(opened.state, (x, y))[0]
    torch.testing.assert_close(ours, F.cross_entropy(made.model(x), y))
    ranks = screen(made.case, {"taylor": 0.4, "magnitude": 0.3, "twin": 0.3}, 1).ranks
    assert np.isfinite(ranks).all()
    assert made.anatomy.num_units == ranks.size == 6
