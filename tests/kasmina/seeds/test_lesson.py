"""What a seed learns from a batch counts with the host's step, and is dropped with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.kasmina.seeds.networks import LENIENT, PLACE, Loop, convolutions, differing, loop

LONG = {**LENIENT, "train_steps": 6, "ramp_steps": 30, "check_every": 1_000}


def dropped_by_none(training: Loop) -> None:
    training.optimizer.zero_grad()


def dropped_by_zeros(training: Loop) -> None:
    training.optimizer.zero_grad(set_to_none=False)


def backward(training: Loop, *, factor: float = 1.0, forget: Callable[[Loop], None] | None = None) -> None:
    """A pass over a batch; forgotten gradients are so between its two halves."""
    loss = training.grown.loss(training.model(training.x[:16]), training.y[:16], training.x[:16])
    if forget is not None:
        forget(training)
    (loss * factor).backward()


def learned(training: Loop) -> dict[str, Tensor]:
    """Weights of host and seed, and what was written down of the seed."""
    slot = training.grown.slots[PLACE]
    assert slot.learner is not None
    tensors = {**training.model.state_dict(), "norm": slot.learner.norm, "faults": slot.learner.faults}
    tensors |= {name: p.detach().clone() for name, p in slot.parameters().items()}
    return tensors | {"losses": torch.stack([*slot.before, *slot.since])}


@pytest.fixture(params=["TRAINING", "BLENDING"])
def pair(request: pytest.FixtureRequest) -> tuple[Loop, Loop]:
    """Twice the same training, with a seed in this stage."""
    trainings = []
    for _ in range(2):
        training = loop(LONG)
        training.model.eval()  # the same pass, whatever was drawn before
        assert training.grown.germinate(PLACE, "conv").passed
        if request.param == "TRAINING":
            training.steps(2)
        else:
            training.until("BLENDING")
            training.steps(2)
        training.optimizer.zero_grad()
        trainings.append(training)
    return trainings[0], trainings[1]


@pytest.mark.parametrize("forget", [dropped_by_none, dropped_by_zeros])
@pytest.mark.parametrize("is_late", [False, True])
def test_a_batch_whose_gradient_the_script_drops_is_none_for_the_seed_either(
    pair: tuple[Loop, Loop], forget: Callable[[Loop], None], is_late: bool
) -> None:
    for training, is_odd in zip(pair, (True, False), strict=True):
        if is_odd:
            backward(training, factor=torch.inf)
        if is_late:  # between loss and backward
            backward(training, forget=forget)
        else:
            forget(training)
            backward(training)
        training.optimizer.step()
        training.grown.slots[PLACE].track.passes = 0  # what was drawn differs, and nothing here is
        training.close()
    odd, plain = pair
    assert not differing(learned(plain), learned(odd))
    assert odd.grown.slots[PLACE].faults == 0


def test_a_batch_that_is_skipped_after_its_loss_leaves_nothing(pair: tuple[Loop, Loop]) -> None:
    odd, plain = pair
    nothing = torch.full_like(odd.x[:16], torch.nan)
    odd.grown.loss(odd.model(nothing), odd.y[:16], nothing)  # `if not loss.isfinite(): continue`
    for training in pair:
        backward(training)
        training.optimizer.step()
        training.close()
    assert not differing(learned(plain), learned(odd))
    assert odd.grown.slots[PLACE].faults == 0


def test_batches_that_are_gathered_for_one_step_all_count(pair: tuple[Loop, Loop]) -> None:
    for training, passes in zip(pair, (2, 1), strict=True):
        for _ in range(passes):
            backward(training, factor=1 / passes)
        training.optimizer.step()
        training.close()
    two, one = (training.grown.slots[PLACE].learner for training in pair)
    assert two is not None
    assert one is not None
    assert torch.allclose(two.norm, one.norm)
    assert two.steps == one.steps
    slots = [training.grown.slots[PLACE] for training in pair]
    assert len(slots[0].before) + len(slots[0].since) == len(slots[1].before) + len(slots[1].since) + 1


@pytest.mark.parametrize("is_fused", [False, True])
def test_a_step_that_a_scaler_skips_is_none_of_the_seed_either(is_fused: bool) -> None:
    torch.manual_seed(0)
    training = Loop(convolutions(), LONG, make=partial(torch.optim.Adam, fused=is_fused))
    training.grown.germinate(PLACE, "conv")
    slot = training.until("BLENDING")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = {name: p.detach().clone() for name, p in slot.parameters().items()}
    share = slot.share
    training.optimizer.zero_grad()
    loss = training.grown.loss(training.model(training.x[:16]), training.y[:16], training.x[:16])
    scaler.scale(loss * torch.inf).backward()
    scaler.step(training.optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert slot.share == share
    training.steps(1)
    training.grown.end_epoch()
    assert slot.faults == 0
    assert slot.stage.name == "BLENDING"
    assert any(not torch.equal(before[name], p) for name, p in slot.parameters().items())
    training.close()


def test_a_loop_that_takes_its_gradient_elsewhere_is_a_lesson_all_the_same() -> None:
    training = loop(LONG)
    training.grown.germinate(PLACE, "conv")
    for _ in range(3):
        output = training.model(training.x[:16])
        training.grown.loss(output, training.y[:16], training.x[:16])
        training.criterion(output, training.y[:16]).backward()
        training.optimizer.step()
    learner = training.grown.slots[PLACE].learner
    assert learner is not None
    assert learner.steps == 3
    training.close()
