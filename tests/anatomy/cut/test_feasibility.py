"""Groups that a network's own code cannot do without are found on a copy."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut.feasibility import refused_groups
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect
from esper.errors import SurgeryError


class Fixed(nn.Module):
    """Two layers of which the first must keep its width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x)).view(-1, 8)
        out: Tensor = self.third(torch.relu(self.second(hidden)))
        return out


class EqualWidths(nn.Module):
    """Its code demands that two layers stay equally wide; a third one is free."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.left, self.right = nn.Linear(4, 10), nn.Linear(10, 8), nn.Linear(10, 8)
        self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.free(x))
        left, right = self.left(x), self.right(x)
        if left.shape != right.shape:
            raise ValueError("left and right must be equally wide")
        out: Tensor = self.one(torch.relu(left)) * self.two(torch.relu(right))
        return out


class Scaled(nn.Module):
    """Its code multiplies by a width, which changes with the ratio of two widths only."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.up, self.down = nn.Linear(4, 10), nn.Linear(10, 16), nn.Linear(16, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.relu(self.up(torch.relu(self.free(x))))
        narrow = torch.relu(self.down(wide))
        out: Tensor = self.last(narrow * (wide.shape[-1] / narrow.shape[-1]))
        return out


class HelpedInTraining(nn.Module):
    """Has a second head that it computes as it is trained only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)
        self.helper = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        hidden = torch.relu(self.first(x))
        out: Tensor = self.third(torch.relu(self.second(hidden)))
        return (out, self.helper(hidden)) if self.training else out


def test_what_is_read_only_in_training_stays() -> None:
    model, x = HelpedInTraining(), torch.randn(4, 4)
    (refused,) = refused_groups(model, inspect(model, x), Inputs((x,))).items()
    assert refused[0] == "first"
    assert refused[1].startswith("As it is trained, the network's code does not run at the new sizes")


@pytest.mark.parametrize(
    ("build", "culprits", "why"),
    [
        (EqualWidths, {"left", "right"}, "must be equally wide"),
        (Scaled, {"up", "down"}, "differs from the masked one"),
    ],
)
def test_groups_that_can_go_together_but_not_alone_are_refused(
    build: type[nn.Module], culprits: set[str], why: str
) -> None:
    torch.manual_seed(0)
    model, x = build(), torch.randn(4, 4)
    refused = refused_groups(model, inspect(model, x), Inputs((x,)))
    assert refused.keys() == culprits
    assert all(why in reason for reason in refused.values())


def test_only_the_culprit_is_refused_and_nothing_is_touched() -> None:
    torch.manual_seed(0)
    model, x = Fixed(), torch.randn(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused = refused_groups(model, inspect(model, x), Inputs((x,)))
    assert refused.keys() == {"first"}
    assert "does not run at the new sizes" in refused["first"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.first.out_features, model.second.in_features) == (8, 8)


def test_a_network_without_fixed_sizes_refuses_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 4)
    assert refused_groups(model, inspect(model, x), Inputs((x,))) == {}


def test_a_network_without_units_refuses_nothing() -> None:
    model, x = nn.Linear(4, 8), torch.randn(4, 4)
    assert refused_groups(model, inspect(model, x), Inputs((x,))) == {}


def test_a_network_that_cannot_be_copied_is_named() -> None:
    model, x = Fixed(), torch.randn(4, 4)
    anatomy = inspect(model, x)
    model.lock = threading.Lock()  # type: ignore[assignment]  # what users do
    with pytest.raises(SurgeryError, match="Fixed cannot be copied"):
        refused_groups(model, anatomy, Inputs((x,)))


class Remade(nn.Sequential):
    """A network whose class says that a copy is made anew, as from a file; it is called otherwise there."""

    def __reduce__(self) -> tuple[type[nn.Sequential], tuple[nn.Module, ...]]:
        return nn.Sequential, (nn.Sequential(*self),)


def test_a_network_whose_copy_is_another_one_is_named() -> None:
    model, x = Remade(nn.Linear(4, 8), nn.Linear(8, 4)), torch.randn(4, 4)
    anatomy = inspect(model, x)
    with pytest.raises(SurgeryError, match=r"Remade cannot be copied .*in_place=False"):
        refused_groups(model, anatomy, Inputs((x,)))


class AlwaysDropped(nn.Module):
    """Its dropout is on in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(nn.functional.dropout(torch.relu(self.first(x)), 0.5, training=True))
        return out


class Returned(nn.Module):
    """Its loss reads logits, and it returns what they are made of as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.first(x))
        return self.second(hidden), hidden


def drawn_by_numpy() -> list[int]:
    return list(np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002


def test_a_network_that_is_random_in_eval_mode_is_told_of_that_and_not_of_sizes() -> None:
    torch.manual_seed(0)
    model, x = AlwaysDropped(), torch.randn(64, 4)
    anatomy, states = inspect(model, x), (torch.get_rng_state(), (random.getstate(), drawn_by_numpy()))
    (why,) = refused_groups(model, anatomy, Inputs((x,))).values()
    assert why.startswith("The network is random even in eval mode (its own outputs differ by ")
    assert "`self.training`" in why
    assert "fixed size" not in why
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), drawn_by_numpy()) == states[1]


def test_of_a_network_that_returns_what_would_be_cut_the_output_is_named() -> None:
    torch.manual_seed(0)
    model, x, y = Returned(), torch.randn(4, 4), torch.randint(0, 3, (4,))
    anatomy = inspect(model, (x, y), loss=lambda out, y: nn.functional.cross_entropy(out[0], y))
    (why,) = refused_groups(model, anatomy, Inputs((x,))).values()
    assert (
        "returns a tensor whose width the cut would change (output 2 of 2: (4, 4) instead of (4, 8))" in why
    )
    assert "a wrapper whose forward returns only what the loss reads" in why
    wrapped = FirstOf(model)
    anatomy = inspect(wrapped, (x, y), loss=nn.CrossEntropyLoss())
    assert refused_groups(wrapped, anatomy, Inputs((x,))) == {}


class FirstOf(nn.Module):
    """The wrapper that the refusal asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)[0]
        return logits
