"""Lists and dicts with a tensor for each parameter are known by what they hold, and what becomes of it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.graph import Alive, PlainBeside, plain_beside, plain_copies_beside


class Shadow:
    """Keeps an average in a list."""

    def __init__(self, model: nn.Module) -> None:
        self.shadow_params = [p.detach().clone() for p in model.parameters() if p.requires_grad]


def test_lists_and_dicts_of_copies_are_known_by_what_they_are_called() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
    model.get_submodule("0").requires_grad_(False)
    assert not plain_copies_beside(model, Alive(model))
    shadow = Shadow(model)
    assert plain_copies_beside(model, Alive(model)) == [("list", "Shadow.shadow_params")]
    shadow.shadow_params.pop()
    named = {"ema": {f"module.{name}": tensor.clone() for name, tensor in model.state_dict().items()}}
    assert plain_copies_beside(model, Alive(model)) == [("dict", "ema")]
    named["ema"]["module.3.weight"].add_(1.0)
    assert not plain_copies_beside(model, Alive(model))


def test_what_a_module_or_an_optimizer_holds_is_no_copy_by_itself() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    average = AveragedModel(model)
    held = model.state_dict(), list(model.parameters()), average.module.state_dict()
    optimizers = AdamW(average.parameters()), AdamW(copy.deepcopy(model).parameters())
    assert not plain_copies_beside(model, Alive(model))
    del held, optimizers


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_what_a_loop_computes_with_follows_a_network_and_the_best_weights_do_not() -> None:
    model = network()
    best, averages = copy.deepcopy(model.state_dict()), {"late": weights(model)}
    beside = PlainBeside(model)
    beside.look(Alive(model))
    best = {name: tensor + 0.01 for name, tensor in best.items()}  # better ones, in a dict of their own
    assert beside.follower(Alive(model)) is None
    beside.look(Alive(model))
    averages["late"]["0.weight"] = 0.9 * averages["late"]["0.weight"]
    assert beside.follower(Alive(model)) == beside.follower(Alive(model)) == ("dict", "late")
    assert PlainBeside(model, [averages["late"]]).follower(Alive(model)) is None
    del averages["late"]
    fold = weights(network())  # of another network, which was trained before
    assert beside.follower(Alive(model)) is None
    assert (len(best), len(fold)) == (9, 6)


def test_numbers_that_cannot_be_weights_follow_if_they_are_kept() -> None:
    model = network()
    model.get_submodule("0").requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    beside = PlainBeside(model)
    squares = [torch.rand_like(p) for p in trained]
    assert beside.follower(Alive(model)) is None  # made in the last step
    beside.look(Alive(model))
    squares = [torch.rand_like(p) for p in trained]
    assert beside.follower(Alive(model)) is None  # others by now
    beside.look(Alive(model))
    assert beside.follower(Alive(model)) == ("list", "4 tensors")  # what is local has no name to be found by
    del squares
    assert beside.follower(Alive(model)) is None
    kept = {"fisher": {name: torch.rand_like(value) for name, value in weights(model).items()}}
    assert beside.follower(Alive(model)) == ("dict", "fisher")
    del kept["fisher"]
    kept["masks"] = {"3.weight": torch.ones(4, 12)}
    assert beside.follower(Alive(model)) == ("dict", "masks")
    kept["masks"] = {"3.bias": torch.ones(4)}
    assert beside.follower(Alive(model)) is None


def test_weights_that_a_loop_computes_with_follow_also_if_they_stand_still_or_are_new_in_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plain_beside, "programs_made", lambda: 0)
    model = network()
    held = {"start": weights(model)}
    beside = PlainBeside(model)
    beside.look(Alive(model))
    assert beside.follower(Alive(model)) is None
    beside.look(Alive(model))
    loss = sum(((p - held["start"][name]) ** 2).sum() for name, p in model.named_parameters())
    assert isinstance(loss, Tensor)
    assert beside.follower(Alive(model)) == beside.follower(Alive(model)) == ("dict", "start")
    beside.look(Alive(model))
    held["start"] = {name: 0.9 * held["start"][name] + value for name, value in weights(model).items()}
    assert beside.follower(Alive(model)) == ("dict", "start")
    beside.look(Alive(model))
    assert beside.follower(Alive(model)) is None
    assert all(type(value) is Tensor for value in held["start"].values())


def test_nothing_is_watched_where_a_compiler_would_meet_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_beside, "programs_made", lambda: 1)
    model = network()
    held = {"start": weights(model)}
    beside = PlainBeside(model)
    beside.look(Alive(model))
    assert all(type(value) is Tensor for value in held["start"].values())


def test_an_average_in_one_row_follows_and_rows_that_are_only_kept_or_new_in_each_step_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    held = {"row": parameters_to_vector(model.parameters()).detach().clone()}
    beside = PlainBeside(model)
    for compiled in (0, 1):  # watched, or known by its numbers
        monkeypatch.setattr(plain_beside, "programs_made", lambda made=compiled: made)
        beside.look(Alive(model))
        assert beside.follower(Alive(model)) is None
        beside.look(Alive(model))
        held["row"].mul_(0.9).add_(parameters_to_vector(model.parameters()).detach(), alpha=0.1)
        assert beside.follower(Alive(model)) == ("tensor", "row")
        beside.look(Alive(model))
        held["row"] = parameters_to_vector(model.parameters()).detach().clone()
        assert beside.follower(Alive(model)) is None


def test_what_an_optimizer_of_the_network_remembers_in_a_row_follows_nobody() -> None:
    model = network()
    optimizer, beside = AdamW(model.parameters()), PlainBeside(model)
    row = parameters_to_vector(model.parameters()).detach().clone()
    optimizer.state[model.get_parameter("0.weight")] = {"directions": row}
    for given, found in (((), ("tensor", "directions")), ((optimizer,), None)):
        beside.look(Alive(model), given)
        row.mul_(0.9).add_(parameters_to_vector(model.parameters()).detach(), alpha=0.1)
        assert beside.follower(Alive(model), given) == found
