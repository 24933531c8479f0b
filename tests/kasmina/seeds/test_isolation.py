"""The host never knows of a seed that is not blended in, bit for bit; and what would leak is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.checkpoint import drawn_apart
from esper.kasmina.seeds.isolation import GradientIsolationMonitor, at_rest, leaves_behind
from tests.kasmina.seeds.networks import (
    LENIENT,
    PLACE,
    Attention,
    Loop,
    Recurrent,
    convolutions,
    differing,
    loop,
    perceptron,
    snapshot,
)

STRICT = {**LENIENT, "isolation": "strict", "ramp_steps": 30}


def with_and_without(
    make: Callable[[], nn.Module], path: str, blueprint: str, **options: Any
) -> tuple[Loop, list[str]]:
    """A training in which a seed learns, is half blended in and culled; and what differs from one without."""
    grown, plain = loop(STRICT, make, **options), loop(None, make, **options)
    grown.steps(2)
    assert grown.grown.germinate(path, blueprint).passed
    grown.until("BLENDING", path)
    grown.steps(10)
    assert 0 < grown.grown.slots[path].share < 1
    grown.grown.cull(path)
    grown.steps(2)
    grown.close()
    after = snapshot(grown)  # the random state is a global one
    torch.manual_seed(1)
    plain.steps(grown.optimizer_steps)
    return grown, differing(after, snapshot(plain))


@pytest.mark.parametrize(
    ("make", "path", "blueprint", "autocast"),
    [
        (convolutions, "2", "conv", False),
        (convolutions, "2", "conv", True),
        (perceptron, "2", "mlp", False),
        (Attention, "blocks.2", "low_rank", True),
        (Attention, "blocks.2", "attention", False),
        (Recurrent, "rnn", "norm", False),
    ],
)
def test_a_host_is_bitwise_the_same_after_a_seed_was_trained_strictly_blended_and_culled(
    make: Callable[[], nn.Module], path: str, blueprint: str, autocast: bool
) -> None:
    grown, different = with_and_without(make, path, blueprint, autocast=autocast)
    assert not different
    assert grown.grown.monitor.checks > 5
    assert not grown.grown.monitor.violations


class Bursting(nn.Module):
    """Sound when it is tried, infinite as soon as its weight has moved."""

    def __init__(self, _: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.drop(x) * torch.where(self.weight == 0, self.weight, self.weight * torch.inf)
        return answer


def test_a_seed_that_becomes_infinite_leaves_the_host_alone_and_is_culled() -> None:
    blueprints = {"bursting": Bursting}
    grown, plain = loop(STRICT, blueprints=blueprints), loop(None)
    torch.manual_seed(1)
    assert grown.grown.germinate(PLACE, "bursting").passed
    slot = grown.until("EMBARGOED")
    assert "no number" in slot.track.evidence
    grown.close()
    after = snapshot(grown)
    torch.manual_seed(1)
    plain.steps(grown.optimizer_steps)
    assert not differing(after, snapshot(plain))


def test_straight_through_training_does_not_touch_the_host_either() -> None:
    settings = {**STRICT, "training": "straight_through", "train_steps": 99}
    grown, plain = loop(settings), loop(None)
    torch.manual_seed(1)
    grown.grown.germinate(PLACE, "conv")
    grown.steps(12)
    learner = grown.grown.slots[PLACE].learner
    assert learner is not None
    assert learner.steps == 11  # the first loss is asked for after its pass
    grown.grown.cull(PLACE)
    grown.close()
    after = snapshot(grown)
    torch.manual_seed(1)
    plain.steps(12)
    assert not differing(after, snapshot(plain))


def test_two_seeds_at_once_leave_no_more_than_one() -> None:
    grown, plain = loop({**STRICT, "train_steps": 99}), loop(None)
    torch.manual_seed(1)
    grown.grown.germinate(PLACE, "conv")
    grown.grown.germinate("4", "bottleneck")
    grown.steps(9)
    grown.grown.cull(PLACE)
    grown.grown.cull("4")
    grown.close()
    after = snapshot(grown)
    torch.manual_seed(1)
    plain.steps(9)
    assert not differing(after, snapshot(plain))


class Meddling(nn.Module):
    """Writes into the host behind everybody's back, in training mode."""

    def __init__(self, victim: nn.Parameter, _: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.victims = [victim]

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.victims[0].data.add_(1e-3)
        return x * self.weight


def test_a_seed_that_writes_into_the_host_is_noticed_and_culled_when_it_has_done_so_three_times() -> None:
    model = convolutions()
    training = Loop(model, {**STRICT, "check_every": 1, "train_steps": 99})
    victim = model[0].weight
    assert isinstance(victim, nn.Parameter)
    training.close()
    training = Loop(
        model,
        {**STRICT, "check_every": 1, "train_steps": 99},
        blueprints={"meddling": lambda like: Meddling(victim, like)},
    )
    assert training.grown.germinate(PLACE, "meddling").passed
    training.steps(1)
    assert training.grown.monitor.violations == {PLACE: 1}
    training.steps(3)
    slot = training.grown.slots[PLACE]
    assert slot.stage.name == "EMBARGOED"
    assert "violated its isolation 3 times" in slot.track.evidence
    assert training.grown.breaker.state.name == "OPEN"
    refused = training.grown.germinate("5", "mlp")
    assert "The breaker is open after 3 failures in a row, until epoch 5" in str(refused)
    training.close()


def test_when_the_breaker_has_cooled_down_one_seed_is_tried_and_one_violation_opens_it_again() -> None:
    model = convolutions()
    settings = {**STRICT, "check_every": 1, "train_steps": 99, "cooldown_epochs": 1, "embargo_epochs": 0}
    training = Loop(
        model, settings, blueprints={"meddling": lambda like: Meddling(next(model[0].parameters()), like)}
    )
    grown = training.grown
    assert grown.germinate(PLACE, "meddling").passed
    training.steps(4)
    saved = grown.state()
    for _ in range(3):
        grown.end_epoch()
    assert grown.breaker.state.name == "HALF_OPEN"
    assert grown.germinate(PLACE, "meddling").passed
    assert "half-open" in str(grown.germinate("5", "mlp"))
    training.steps(2)
    assert grown.breaker.state.name == "OPEN"
    grown.load(saved)  # a run that goes back forgets no failures
    assert grown.state()["breaker"] == {"failures": 4, "opened_epoch": 3}
    grown.breaker.close()
    assert grown.breaker.state.name == "CLOSED"
    grown.load(saved)  # and one that is resumed remembers them
    assert grown.breaker.state.name == "OPEN"
    training.close()


def test_a_seed_that_computes_with_a_parameter_of_the_host_is_not_germinated() -> None:
    model = convolutions()
    weight = next(model[0].parameters())

    class Borrowing(nn.Module):
        def __init__(self, _: Tensor) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.own * weight.sum()

    training = Loop(model, STRICT, blueprints={"borrowing": Borrowing})
    result = training.grown.germinate(PLACE, "borrowing")
    assert not result.passed
    assert "reaches only its own parameters: no" in str(result)
    assert not training.grown.slots
    training.close()


def test_a_pass_at_rest_leaves_buffers_gradients_and_random_numbers_as_they_were() -> None:
    model = convolutions()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    with drawn_apart(3), at_rest(model):
        assert not model(torch.randn(4, 1, 4, 4)).requires_grad
    assert not differing(before, model.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_what_is_drawn_apart_follows_from_the_number_alone() -> None:
    with drawn_apart(11):
        one = torch.rand(3)
    torch.rand(5)
    with drawn_apart(11):
        assert torch.equal(torch.rand(3), one)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(3), one)


def test_what_is_drawn_apart_is_nothing_that_a_device_begins_with_later() -> None:
    asked = torch.cuda._lazy_seed_tracker  # what `manual_seed` has left for devices that have not begun
    torch.manual_seed(5)
    before = list(asked.get_calls())
    with drawn_apart(11):
        torch.rand(3)
    assert list(asked.get_calls()) == before


def test_the_walk_finds_the_parameters_behind_a_tensor() -> None:
    layer = nn.Linear(2, 2)
    x = torch.randn(1, 2, requires_grad=True)
    assert leaves_behind(layer(x)) == {*layer.parameters(), x}
    assert not leaves_behind(layer(x).detach())


def test_a_monitor_says_nothing_where_the_update_differs_from_itself() -> None:
    monitor, numbers = GradientIsolationMonitor(), iter(range(9))

    def noisy() -> tuple[Tensor, ...]:
        return (torch.tensor(float(next(numbers))),)

    assert monitor.check_update("a", noisy, noisy)
    assert not monitor.check_update("a", noisy, lambda: (torch.tensor(-1.0),))
    assert monitor.violations == {"a": 1}
