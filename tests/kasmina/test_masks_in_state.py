"""Weights that an optimizer keeps in its state are masked like those in the parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.kasmina.masks import MaskKeeper
from tests.anatomy.optimizers import KeepsWeights
from tests.kasmina.networks import convolutional, images, some_units
from tests.kasmina.test_masks import assert_masked, masked, train


def copies_of(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    held = {name: optimizer.state[value] for name, value in model.named_parameters()}
    return {f"{name} {key}": held[name][key].clone() for name in held for key in ("master", "slow", "start")}


def test_weights_in_the_optimizers_state_are_hidden_with_the_parameters_and_given_back() -> None:
    model, anatomy = convolutional()
    optimizer = KeepsWeights(model.parameters())
    masks = MaskKeeper(model, anatomy, (optimizer,))
    train(model, optimizer, images, 2)
    before = copies_of(model, optimizer)
    few, more = some_units(anatomy, 3), some_units(anatomy, 3) & some_units(anatomy, 4)
    masks.apply(few)
    masks.apply(more)
    where = masked(model, anatomy, more)
    for name, key in ((name, key) for name in where for key in ("master", "slow", "start")):
        held = optimizer.state[dict(model.named_parameters())[name]][key]
        assert not held[where[name]].any()
        assert torch.equal(held[~where[name]], before[f"{name} {key}"][~where[name]])
    masks.unmask()
    after = copies_of(model, optimizer)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_hidden_copies_go_through_a_checkpoint() -> None:
    model, anatomy = convolutional()
    optimizer = KeepsWeights(model.parameters())
    masks = MaskKeeper(model, anatomy, (optimizer,))
    train(model, optimizer, images, 2)
    before = copies_of(model, optimizer)
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    again = MaskKeeper(model, anatomy, (optimizer,))
    again.apply(keep, masks.originals())
    masks.detach()
    train(model, optimizer, images, 2)  # what is hidden stays zero although parameters are written from it
    assert_masked(model, anatomy, keep)
    again.unmask()
    where = masked(model, anatomy, keep)
    after = copies_of(model, optimizer)
    for name in where:
        hidden = f"{name} start"
        assert torch.equal(after[hidden][where[name]], before[hidden][where[name]])
