"""Every parameter has one owner, and nobody moves another's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from esper.errors import ConfigError, LifecycleError
from esper.kasmina.seeds.owners import HOST, Owners, SeedOptimizer, group_for, take_from
from tests.kasmina.seeds.networks import convolutions


def learner(make: Any = torch.optim.Adam, clip: float = 1e9, lr: float | None = None) -> Any:
    host = nn.Linear(2, 2)
    optimizer = make(host.parameters(), lr=0.1)
    seed = nn.Linear(2, 2)
    return optimizer, seed, SeedOptimizer(seed.parameters(), optimizer, 0, lr=lr, clip=clip)


def test_names_are_taken_once_handed_over_and_forgotten() -> None:
    model, seed = convolutions(), nn.Linear(2, 2)
    owners = Owners(model)
    owners.take("2", {"2.seed.weight": seed.weight})
    with pytest.raises(LifecycleError, match=r"0\.weight is a parameter of HOST already"):
        owners.take("2", {"2.seed.other": model[0].weight})  # type: ignore[dict-item]
    with pytest.raises(LifecycleError, match=r"2\.seed\.weight is a parameter of 2 already"):
        owners.take("4", {"2.seed.weight": seed.bias})
    owners.hand_over("2", HOST)
    assert not owners.of("2")
    assert owners.of(HOST)["2.seed.weight"] is seed.weight
    owners.release([seed.weight])
    assert seed.weight not in owners.of_all()


def test_a_step_that_would_move_anothers_parameter_is_refused() -> None:
    model, seed = convolutions(), nn.Linear(2, 2)
    owners = Owners(model)
    owners.take("2", {"2.seed.weight": seed.weight})
    both = torch.optim.SGD([*model.parameters(), seed.weight], 0.1)
    with pytest.raises(
        LifecycleError, match=r"of HOST holds 2\.seed\.weight, which belongs to 2\. The step was"
    ):
        owners.check_step(HOST, both)
    stranger = torch.optim.SGD([*model.parameters(), torch.zeros(1, requires_grad=True)], 0.1)
    owners.check_step(HOST, stranger)  # a loss may have weights


def test_gradients_of_a_seed_are_out_of_sight_of_who_clips_the_hosts() -> None:
    _, seed, owned = learner()
    seed(torch.ones(1, 2)).sum().backward()
    assert all(parameter.grad is None for parameter in seed.parameters())
    before = seed.weight.detach().clone()
    owned.step()
    assert not torch.equal(seed.weight, before)
    assert owned.steps == 1
    owned.step()  # without a gradient
    assert owned.steps == 1


def test_several_passes_count_with_their_mean_and_a_scaled_loss_with_its_scale() -> None:
    _, seed, owned = learner(torch.optim.SGD)
    for value in (1.0, 3.0):
        owned.learn([torch.full((2, 2), value), torch.zeros(2)])
    before = seed.weight.detach().clone()
    owned.step(scale=100.0)  # its own passes are not scaled
    assert torch.allclose(before - seed.weight, torch.full((2, 2), 0.2))
    (seed(torch.ones(1, 2)).sum() * 8.0).backward()
    before = seed.weight.detach().clone()
    owned.step(scale=8.0)
    assert torch.allclose(before - seed.weight, torch.full((2, 2), 0.1))


def test_a_step_is_clipped_by_the_seeds_own_norm() -> None:
    _, seed, owned = learner(torch.optim.SGD, clip=1.0)
    owned.learn([torch.full((2, 2), 30.0), torch.zeros(2)])
    before = seed.weight.detach().clone()
    owned.step()
    assert float((before - seed.weight).detach().norm()) == pytest.approx(0.1, rel=1e-4)
    assert float(owned.norm) == pytest.approx(60.0)


def test_a_gradient_that_is_no_number_moves_nothing_and_is_counted() -> None:
    _, seed, owned = learner(torch.optim.SGD)
    owned.learn([torch.full((2, 2), torch.nan), torch.zeros(2)])
    before = seed.weight.detach().clone()
    owned.step()
    assert torch.equal(seed.weight, before)
    owned.learn([None, None])
    assert int(owned.faults) == 2


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_a_learner_is_of_the_hosts_kind_and_moves_into_its_group_with_its_state(make: Any) -> None:
    optimizer, seed, owned = learner(make)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    scheduler.step()
    owned.learn([torch.ones(2, 2), torch.ones(2)])
    owned.step()
    assert type(owned.optimizer) is make
    assert owned.optimizer.param_groups[0]["lr"] == 0.05
    state = dict(owned.optimizer.state)
    owned.move_to_host()
    assert len(optimizer.param_groups) == 1
    assert optimizer.param_groups[0]["params"][-2:] == [*seed.parameters()]
    assert all(optimizer.state[parameter] is kept for parameter, kept in state.items())
    seed(torch.ones(1, 2)).sum().backward()
    assert seed.weight.grad is not None
    take_from(optimizer, seed.parameters())
    assert len(optimizer.param_groups[0]["params"]) == 2
    assert seed.weight not in optimizer.state


def test_a_learning_rate_of_its_own_stays_its_own() -> None:
    optimizer, _, owned = learner(torch.optim.SGD, lr=0.25)
    optimizer.param_groups[0]["lr"] = 7.0
    owned.learn([torch.ones(2, 2), None])
    owned.step()
    assert owned.optimizer.param_groups[0]["lr"] == 0.25


def test_the_group_that_trains_the_host_module_is_the_one_to_join() -> None:
    model = convolutions()
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[4].parameters()}], 0.1)
    assert group_for(optimizer, model[4]) == 1
    assert group_for(optimizer, nn.GELU()) == 0


def test_an_optimizer_that_cannot_be_made_again_is_refused() -> None:
    class Odd(torch.optim.SGD):
        def __init__(self, parameters: Any, lr: float, secret: object = None) -> None:
            if secret is not None:
                raise ValueError("no")
            super().__init__(parameters, lr)
            self.param_groups[0]["secret"] = 1

    with pytest.raises(ConfigError, match="Odd cannot be made from its options"):
        learner(Odd)


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SparseAdam])
def test_an_optimizer_that_makes_no_step_with_a_plain_gradient_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{make.__name__} makes no such step: \w+Error: .* AdamW"):
        learner(make)
