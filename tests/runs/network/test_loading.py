"""Of a run only what its key vouches for is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import esper
from esper.anatomy.archive import write_program
from esper.anatomy.twin import deployed
from esper.checkpoint import CheckpointStore, open_key_ring
from esper.errors import CheckpointMissing
from esper.runs.network import PROGRAM_FILE, load


def program(value: float) -> bytes:
    network = nn.Linear(3, 1, bias=False)
    nn.init.constant_(network.weight, value)
    return write_program(deployed(network, (torch.ones(2, 3),), {}))


def run_with(path: Path, files: dict[str, bytes]) -> Path:
    with CheckpointStore(path, keyring=open_key_ring(path, create=True), model="m") as store:
        store.save(1, 1, files)
    return path


def test_a_network_beside_the_checkpoints_of_a_run_is_not_taken_for_the_sealed_one(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {PROGRAM_FILE: program(1.0)})
    (run / PROGRAM_FILE).write_bytes(program(-100.0))
    assert load(run)(torch.ones(1, 3)).item() == 3.0


def test_a_run_that_is_not_finished_says_that_no_key_vouches_for_what_lies_there(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", {"other": b"x"})
    (run / PROGRAM_FILE).write_bytes(program(-100.0))
    with pytest.raises(CheckpointMissing, match=r"does not vouch for network\.pt2"):
        load(run)


def test_a_program_alone_is_loaded_from_a_directory_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / PROGRAM_FILE).write_bytes(program(2.0))
    assert load(tmp_path)(torch.ones(1, 3)).item() == 6.0


def test_a_loaded_program_is_in_eval_mode_for_good(tmp_path: Path) -> None:
    (tmp_path / "network.pt2").write_bytes(program(1.0))
    loaded: Any = load(tmp_path / "network.pt2")
    assert loaded.eval() is loaded
    assert loaded.train(False) is loaded
    assert not loaded.training
    with pytest.warns(UserWarning, match="model=fresh"):
        assert loaded.train() is loaded
    parts = nn.Sequential(nn.Dropout(), loaded).eval()
    assert esper.inspect(parts, torch.ones(2, 3)).num_units == 0
    assert not parts[0].training  # a look leaves the modes as they were
