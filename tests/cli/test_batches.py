"""Held-out batches from files of arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from esper.cli.batches import batches_in
from esper.errors import ConfigError


def test_inputs_and_targets_become_pairs_of_64(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100)
    np.savez(tmp_path / "data.npz", inputs=x, targets=y)
    batches = batches_in(tmp_path / "data.npz")
    assert [len(inputs) for inputs, _ in batches] == [64, 36]
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), torch.from_numpy(x))
    assert torch.equal(torch.cat([targets for _, targets in batches]), torch.from_numpy(y))


def test_named_inputs_stay_named(tmp_path: Path) -> None:
    arrays = {"input_ids": torch.zeros(70, 5, dtype=torch.long), "labels": torch.arange(70)}
    save_file(arrays, tmp_path / "data.safetensors")
    first, second = batches_in(tmp_path / "data.safetensors")
    assert first.keys() == {"input_ids", "labels"}
    assert first["input_ids"].shape == (64, 5)
    assert torch.equal(second["labels"], torch.arange(64, 70))


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": np.zeros((4, 2))},
        {"inputs": np.zeros((4, 2)), "targets": np.zeros(5)},
        {"inputs": np.zeros((4, 2)), "targets": np.array(1.0)},
        {},
    ],
)
def test_arrays_that_are_no_batches_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "data.npz", allow_pickle=False, **arrays)
    with pytest.raises(ConfigError, match="expected the arrays inputs and targets"):
        batches_in(tmp_path / "data.npz")


@pytest.mark.parametrize("name", ["data.npz", "data.safetensors"])
def test_files_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not an archive")
    with pytest.raises(ConfigError, match="cannot be read as arrays"):
        batches_in(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read as arrays"):
        batches_in(tmp_path / f"missing-{name}")


def test_pickled_objects_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.array([{}], dtype=object), targets=np.zeros(1))
    with pytest.raises(ConfigError, match="cannot be read as arrays"):
        batches_in(tmp_path / "data.npz")
