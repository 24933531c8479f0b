"""Every source of randomness."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from esper.checkpoint.codec import decode, encode, from_json, to_json
from esper.checkpoint.rng import Generator, capture_rng, restore_rng
from esper.errors import CheckpointError


def draw(generators: dict[str, Generator]) -> list[object]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.random()),  # noqa: NPY002 (the global state is what is tested)
        torch.rand(3).tolist(),
        torch.randn(3).tolist(),
        *(g.standard_normal(3).tolist() for g in generators.values() if isinstance(g, np.random.Generator)),
        *(torch.rand(3, generator=g).tolist() for g in generators.values() if isinstance(g, torch.Generator)),
        *(g.random() for g in generators.values() if isinstance(g, random.Random)),
    ]


@pytest.mark.parametrize(
    "bits", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]
)
def test_the_same_numbers_are_drawn_again(bits: type[np.random.BitGenerator]) -> None:
    generators: dict[str, Generator] = {
        "numpy": np.random.Generator(bits(1)),
        "torch": torch.Generator().manual_seed(2),
        "python": random.Random(3),
    }
    draw(generators)
    encoded = encode(capture_rng(generators))
    stored = decode(from_json(to_json(encoded.tree)), {k: v.clone() for k, v in encoded.tensors.items()})
    first = draw(generators)
    draw(generators)
    restore_rng(stored, generators)
    assert draw(generators) == first
    restore_rng(stored, generators)
    assert draw(generators) == first


def test_other_generators_than_captured_are_refused_and_nothing_changes() -> None:
    state = capture_rng({"data": random.Random(1)})
    before = torch.get_rng_state()
    torch.rand(1)
    after = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"\['data'\], and \['other'\] were given"):
        restore_rng(state, {"other": random.Random(1)})
    assert torch.equal(torch.get_rng_state(), after)
    assert not torch.equal(before, after)


def test_fewer_devices_than_captured_are_refused() -> None:
    state = capture_rng() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 99}
    with pytest.raises(CheckpointError, match="99 CUDA devices and this process has"):
        restore_rng(state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_the_same_numbers_again() -> None:
    torch.rand(1, device="cuda")
    state = capture_rng()
    first = torch.rand(3, device="cuda").tolist()
    restore_rng(state)
    assert torch.rand(3, device="cuda").tolist() == first
