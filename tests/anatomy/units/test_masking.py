"""Masking zeroes every coordinate of a unit and nothing else."""

from __future__ import annotations

import numpy as np
import torch

from esper.anatomy.units.masking import masked_axes, zero_masked
from tests.anatomy.cutting import anatomy_of, half
from tests.anatomy.networks import ZOO


def test_exactly_the_coordinates_of_removed_units_become_zero() -> None:
    model, anatomy = ZOO["resnet8"].network(), anatomy_of("resnet8")
    keep = half(anatomy)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    zero_masked(dict(model.named_parameters()), masked_axes(anatomy, keep))
    shapes = anatomy.kept_shapes(keep)
    for name, parameter in model.named_parameters():
        gone = torch.zeros(parameter.shape, dtype=torch.bool)
        for (tensor, axis), indices in anatomy.removed_indices(keep).items():
            if tensor == name:
                gone.index_fill_(axis, torch.from_numpy(indices), True)
        assert not parameter[gone].any()
        assert torch.equal(parameter[~gone], before[name][~gone])
        assert int((~gone).sum()) == np.prod(shapes[name])


def test_running_statistics_are_left_alone() -> None:
    anatomy = anatomy_of("resnet8")
    names = {name for name, _ in masked_axes(anatomy, half(anatomy))}
    assert "stem.1.weight" in names
    assert not [name for name in names if "running" in name]


def test_a_tensor_that_is_not_given_is_skipped() -> None:
    anatomy = anatomy_of("plain")
    weight = torch.ones(16, 3, 3, 3)
    keep = half(anatomy)
    zero_masked({"0.weight": weight}, masked_axes(anatomy, keep))
    assert int(weight.any(3).any(2).any(1).sum()) == 8


def test_a_full_mask_changes_nothing() -> None:
    anatomy = anatomy_of("plain")
    assert masked_axes(anatomy, np.ones(anatomy.num_units, dtype=np.bool_)) == {}
