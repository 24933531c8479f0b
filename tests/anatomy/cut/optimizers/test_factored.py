"""An optimizer is asked what its state means, and answers truly or is not believed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, Optimizer

from esper.anatomy.cut.optimizers.factored import Layout, ask
from esper.anatomy.cut.optimizers.state import cut_state, named
from esper.anatomy.proof import Undo
from esper.errors import SurgeryError
from tests.anatomy.optimizers import Lion, RowMaximum


def parameters() -> list[nn.Parameter]:
    return list(nn.Linear(8, 8).parameters())


def test_means_over_an_axis_are_told_from_maxima() -> None:
    means = ask(Adafactor(parameters()), torch.zeros(2, 2))
    assert means["row_var"] == Layout((0, None), is_flat=False, exponents=(0.0, 1.0))
    assert means["col_var"] == Layout((None, 1), is_flat=False, exponents=(1.0, 0.0))
    maxima = ask(RowMaximum(parameters()), torch.zeros(2, 2, 2))
    assert maxima["largest_1"] == Layout((None, 0, None), is_flat=True, exponents=(0.0, 0.0, 0.0))


def test_axes_that_are_missing_are_told_by_size_even_if_the_real_sizes_are_equal() -> None:
    from transformers.optimization import Adafactor as FlatAdafactor  # takes seconds

    found = ask(FlatAdafactor(parameters()), parameters()[0])
    assert found["exp_avg_sq_row"] == Layout((0, None), is_flat=True, exponents=(0.0, 1.0))
    assert found["exp_avg_sq_col"] == Layout((None, 0), is_flat=True, exponents=(1.0, 0.0))


def test_element_wise_state_has_every_axis() -> None:
    assert ask(Lion(parameters()), torch.zeros(2, 2)) == {"exp_avg": Layout.elementwise(2)}


def test_a_layout_gives_shape_places_and_growth() -> None:
    layout = Layout((None, 0, 1), is_flat=True, exponents=(1.0, 0.0, 0.0))
    index = torch.tensor([1])
    assert layout.shape((3, 4, 5)) == (4, 5)
    assert layout.on_state({0: index, 2: index}) == {1: index}
    assert layout.growth({0: 3.0, 2: 7.0}) == 3.0


class Squared(Optimizer):
    """Keeps something that is neither a sum nor a mean over the columns."""

    def __init__(self, of: Any) -> None:
        super().__init__(of, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.dim() == 2:
                self.state[parameter]["strange"] = parameter.grad.square().mean(1).square()


def test_a_reduction_of_another_kind_is_not_believed() -> None:
    model = nn.Linear(8, 6)
    optimizer = Squared(model.parameters())
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    with pytest.raises(SurgeryError, match="Squared holds state 'strange'"):
        cut_state(optimizer, named(dict(model.named_parameters())), {"weight": {1: torch.arange(4)}}, Undo())


class Wrapper(Optimizer):
    """Passes everything on."""

    def __init__(self, of: Any) -> None:
        super().__init__(of, {})
        self.inner = SGD(self.param_groups, 0.1)


def test_an_optimizer_around_another_is_not_asked() -> None:
    with pytest.raises(SurgeryError, match=r"wraps another optimizer.*inside of it"):
        ask(Wrapper(parameters()), torch.zeros(2, 2))


class Stubborn(Optimizer):
    """Steps only where it was told to."""

    def __init__(self, of: Any) -> None:
        super().__init__(of, {"lr": 0.1})
        self.known = {id(p) for group in self.param_groups for p in group["params"]}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if id(parameter) not in self.known:
                raise KeyError("an unknown parameter")


def test_an_optimizer_that_does_not_answer_is_named() -> None:
    with pytest.raises(SurgeryError, match=r"Stubborn holds state.*an unknown parameter"):
        ask(Stubborn(parameters()), torch.zeros(2, 2))
