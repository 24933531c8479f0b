"""Masks stay where they are put, whatever trains the network, and leave no trace when they are taken back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect, masked_axes
from esper.arrays import BoolArray
from esper.errors import MaskError
from esper.kasmina.masks import MaskKeeper
from tests.kasmina.networks import OPTIMIZERS, convolutional, images, some_units, tied, tokens

Batch = tuple[Tensor, Tensor]
NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, Anatomy]], Callable[[int, int], Batch]]] = {
    "convolutional": (convolutional, images),
    "tied": (tied, tokens),
}


def train(
    model: Callable[..., Any],
    optimizer: Optimizer,
    batches: Callable[[int, int], Batch],
    steps: int = 8,
    *,
    after: Callable[[], None] = lambda: None,
    start: int = 0,
) -> None:
    for step in range(start, start + steps):
        x, y = batches(6, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        after()


def masked_values(model: nn.Module, anatomy: Anatomy, keep: BoolArray) -> dict[str, Tensor]:
    """Every masked parameter value, by parameter."""
    parameters = dict(model.named_parameters())
    where = masked(model, anatomy, keep)
    return {name: parameters[name].detach()[where[name]] for name in where}


def masked(model: nn.Module, anatomy: Anatomy, keep: BoolArray) -> dict[str, Tensor]:
    """True at masked coordinates, by parameter."""
    parameters = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        where = found.setdefault(name, torch.zeros(parameters[name].shape, dtype=torch.bool))
        where.index_fill_(axis, torch.from_numpy(gone), True)
    return found


def assert_masked(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, optimizer: Optimizer | None = None
) -> None:
    """Every member of every masked unit is zero, and so are its moments."""
    values = masked_values(model, anatomy, keep)
    assert values
    assert {m.tensor for m in anatomy.groups[0].members} & values.keys()
    for name, value in values.items():
        assert not value.count_nonzero(), name
    if optimizer is not None:
        parameters = dict(model.named_parameters())
        for name, where in masked(model, anatomy, keep).items():
            for key, moment in optimizer.state.get(parameters[name], {}).items():
                if isinstance(moment, Tensor) and moment.shape == where.shape:
                    assert not moment[where].count_nonzero(), (name, key)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_units_stay_zero_through_training_and_carry_no_momentum(optimizer: str, network: str) -> None:
    build, batches = NETWORKS[network]
    model, anatomy = build()
    chosen = OPTIMIZERS[optimizer](model)
    train(model, chosen, batches, 4)  # moments of what is masked later are not zero
    masks = MaskKeeper(model, anatomy, (chosen,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    assert_masked(model, anatomy, keep, chosen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, chosen, batches, 12, after=lambda: assert_masked(model, anatomy, keep, chosen), start=4)
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters() if p.dim() > 1)


def test_a_mask_from_before_the_first_step_holds() -> None:
    model, anatomy = convolutional()
    optimizer = AdamW(model.parameters(), 0.01)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 2)
    masks.apply(keep)
    train(model, optimizer, images, after=lambda: assert_masked(model, anatomy, keep, optimizer))


def test_several_optimizers_are_kept_in_check() -> None:
    model, anatomy = convolutional()
    halves = list(model.parameters())
    first, second = SGD(halves[::2], 0.1, momentum=0.9), AdamW(halves[1::2], 0.01)
    masks = MaskKeeper(model, anatomy, (first, second))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    for step in range(6):
        x, y = images(6, step)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        first.step()
        second.step()
        assert_masked(model, anatomy, keep, first)
        assert_masked(model, anatomy, keep, second)


def test_gradients_that_are_held_when_a_mask_comes_lose_the_masked_part() -> None:
    model, anatomy = convolutional()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    x, y = images()
    F.cross_entropy(model(x), y).backward()
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    optimizer.step()
    assert_masked(model, anatomy, keep, optimizer)


@pytest.mark.parametrize("optimizer", ["sgd nesterov", "adamw", "adam foreach"])
def test_a_masked_network_trains_like_the_cut_one_even_when_gradients_are_clipped(optimizer: str) -> None:
    keep = some_units(convolutional()[1], 3)

    def losses(model: nn.Module, chosen: Optimizer) -> list[float]:
        found = []
        for step in range(6):
            x, y = images(6, step)
            chosen.zero_grad()
            loss = F.cross_entropy(model(x.double()), y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 0.2)
            chosen.step()
            found += [float(loss.detach()), float(norm)]
        return found

    one, anatomy = convolutional()
    one.double()
    masking = OPTIMIZERS[optimizer](one)
    MaskKeeper(one, anatomy, (masking,)).apply(keep)
    other, _ = convolutional()
    other.double()
    cutting = OPTIMIZERS[optimizer](other)
    cut(other, anatomy, keep, Inputs((images()[0],)), (cutting,))
    assert losses(one, masking) == pytest.approx(losses(other, cutting), rel=1e-9)


def test_gradient_accumulation_keeps_masks() -> None:
    model, anatomy = convolutional()
    optimizer = AdamW(model.parameters(), 0.01)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    for step in range(12):
        x, y = images(6, step)
        (F.cross_entropy(model(x), y) / 3).backward()
        if step % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
            assert_masked(model, anatomy, keep, optimizer)


def test_scaled_gradients_and_skipped_steps_keep_masks() -> None:
    model, anatomy = convolutional()
    optimizer = AdamW(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    for step in range(6):
        x, y = images(6, step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y) * (float("inf") if step == 3 else 1.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert_masked(model, anatomy, keep, optimizer)
    assert float(optimizer.state[next(model.parameters())]["step"]) == 5


def test_masks_of_a_network_hold_in_its_compiled_form() -> None:
    model, anatomy = convolutional()
    compiled = torch.compile(model, backend="eager")
    optimizer = AdamW(model.parameters(), 0.01)
    train(compiled, optimizer, images, 2)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    train(compiled, optimizer, images, 4, after=lambda: assert_masked(model, anatomy, keep, optimizer))
    assert torch.equal(compiled(images()[0]), model(images()[0]))


def test_sparse_gradients_keep_masks() -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(11, 8, sparse=True)
    model = nn.Sequential(embedding, nn.Flatten(), nn.Linear(24, 33))
    anatomy = inspect(model, tokens(), F.cross_entropy)
    optimizer = SGD(model.parameters(), 0.1)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 2)
    masks.apply(keep)
    train(model, optimizer, tokens, after=lambda: assert_masked(model, anatomy, keep))


def test_masks_follow_a_network_to_another_type() -> None:
    model, anatomy = convolutional()
    optimizer = SGD(model.parameters(), 0.1)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    model.to(torch.bfloat16)
    train(model, optimizer, lambda n, s: (images(n, s)[0].bfloat16(), images(n, s)[1]))
    assert_masked(model, anatomy, keep)
    masks.unmask()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_unmasking_restores_the_exact_bits_and_the_rest_keeps_what_it_learned(network: str) -> None:
    build, batches = NETWORKS[network]
    model, anatomy = build()
    optimizer = AdamW(model.parameters(), 0.01)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    train(model, optimizer, batches, 2)
    keep = some_units(anatomy, 3)
    hidden = masked_values(model, anatomy, keep)
    masks.apply(keep)
    train(model, optimizer, batches, 5)
    learned = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks.unmask()
    restored = masked_values(model, anatomy, keep)
    assert all(torch.equal(restored[name], hidden[name]) for name in hidden)
    where = masked(model, anatomy, keep)
    for name, parameter in model.named_parameters():
        survives = ~where[name] if name in where else torch.ones_like(parameter, dtype=torch.bool)
        assert torch.equal(parameter[survives], learned[name][survives])
    assert masks.num_masked == 0
    assert masks.originals() == {}
    train(model, optimizer, batches, 1)
    assert any(value.count_nonzero() for value in masked_values(model, anatomy, keep).values())


def test_a_larger_mask_keeps_the_first_values_of_what_was_masked_before() -> None:
    model, anatomy = convolutional()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    small = some_units(anatomy, 5)
    large = small & some_units(anatomy, 4, first=1)
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks.apply(small)
    train(model, optimizer, images, 3)
    second = {name: p.detach().clone() for name, p in model.named_parameters()}
    masks.apply(large)
    assert_masked(model, anatomy, large, optimizer)
    train(model, optimizer, images, 3)
    masks.unmask()
    early, late = masked(model, anatomy, small), masked(model, anatomy, large)
    for name, parameter in model.named_parameters():
        if name in early:
            assert torch.equal(parameter[early[name]], first[name][early[name]])
        if name in late:
            new = late[name] & ~early.get(name, torch.zeros_like(late[name]))
            assert torch.equal(parameter[new], second[name][new])


def snapshot(model: nn.Module, masks: MaskKeeper) -> list[Tensor]:
    return [*(p.detach().clone() for p in model.parameters()), *masks.originals().values()]


def test_a_mask_that_does_not_fit_is_refused_and_nothing_changes() -> None:
    model, anatomy = convolutional()
    masks = MaskKeeper(model, anatomy, ())
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    before = snapshot(model, masks)
    wrong: list[BoolArray] = [
        np.ones(anatomy.num_units + 1, np.bool_),
        np.ones((anatomy.num_units, 1), np.bool_),
        keep.astype(np.int8).view(np.bool_).reshape(1, -1),
    ]
    for mask in wrong:
        with pytest.raises(MaskError, match="does not fit"):
            masks.apply(mask)
    with pytest.raises(MaskError, match="type float64"):
        masks.apply(keep.astype(np.float64))
    back = keep.copy()
    back[0] = True
    with pytest.raises(MaskError, match=r"1 unit.* not in the new mask"):
        masks.apply(back)
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, masks), strict=True))
    assert np.array_equal(masks.keep, keep)


def test_originals_that_do_not_fit_are_refused_and_nothing_changes() -> None:
    model, anatomy = convolutional()
    keep = some_units(anatomy, 3)
    lender = MaskKeeper(model, anatomy, ())
    lender.apply(keep)
    good = lender.originals()
    model, _ = convolutional()
    masks = MaskKeeper(model, anatomy, ())
    before = snapshot(model, masks)
    last = list(good)[-1]
    for wrong in (good[last][:-1], good[last].double(), good[last].reshape(1, -1)):
        with pytest.raises(MaskError, match=f"do not fit {last}"):
            masks.apply(keep, {**good, last: wrong})
    with pytest.raises(MaskError, match="nothing was given"):
        masks.apply(keep, {name: value for name, value in good.items() if name != last})
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, masks), strict=True))
    assert masks.num_masked == 0


def test_the_state_dict_knows_nothing_of_masks() -> None:
    model, anatomy = convolutional()
    names = list(model.state_dict())
    masks = MaskKeeper(model, anatomy, (SGD(model.parameters(), 0.1),))
    masks.apply(some_units(anatomy, 2))
    assert list(model.state_dict()) == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_is_kept_grows_with_what_is_masked() -> None:
    model, anatomy = convolutional()
    masks = MaskKeeper(model, anatomy, ())
    keep = np.ones(anatomy.num_units, np.bool_)
    assert masks.originals() == {}
    expected = 0
    for unit in (0, 9, 20):
        keep[unit] = False
        masks.apply(keep)
        expected = sum(int(where.sum()) for where in masked(model, anatomy, keep).values())
        assert sum(value.numel() for value in masks.originals().values()) == expected
    parameters = sum(p.numel() for p in model.parameters())
    assert expected < parameters / 4


def test_a_run_that_continues_with_masks_from_a_checkpoint_equals_the_uninterrupted_one() -> None:
    def begin() -> tuple[nn.Module, Anatomy, Optimizer, MaskKeeper]:
        model, anatomy = convolutional()
        optimizer = AdamW(model.parameters(), 0.01)
        return model, anatomy, optimizer, MaskKeeper(model, anatomy, (optimizer,))

    whole, anatomy, optimizer, masks = begin()
    keep = some_units(anatomy, 3)
    train(whole, optimizer, images, 3)
    masks.apply(keep)
    train(whole, optimizer, images, 3, start=3)
    saved_model = {name: value.clone() for name, value in whole.state_dict().items()}
    saved_optimizer = {
        "state": {
            n: {k: v.clone() if isinstance(v, Tensor) else v for k, v in s.items()}
            for n, s in optimizer.state_dict()["state"].items()
        },
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    originals = {name: value.clone() for name, value in masks.originals().items()}
    train(whole, optimizer, images, 3, start=6)
    masks.unmask()

    again, _, optimizer, masks = begin()
    again.load_state_dict(saved_model)
    optimizer.load_state_dict(saved_optimizer)
    masks.apply(keep, originals)
    train(again, optimizer, images, 3, start=6)
    assert_masked(again, anatomy, keep, optimizer)
    masks.unmask()
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_after_detach_nothing_is_kept() -> None:
    model, anatomy = convolutional()
    optimizer = SGD(model.parameters(), 0.1)
    masks = MaskKeeper(model, anatomy, (optimizer,))
    keep = some_units(anatomy, 3)
    masks.apply(keep)
    masks.detach()
    assert_masked(model, anatomy, keep)
    train(model, optimizer, images, 2)
    assert any(value.count_nonzero() for value in masked_values(model, anatomy, keep).values())
