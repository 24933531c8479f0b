"""State of every shape that optimizers keep: cut with its parameter, left alone, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, NAdam, Optimizer, RMSprop

from esper.anatomy.optimizer_state import cut_state, named
from esper.anatomy.tensors import Undo
from esper.errors import SurgeryError

KEPT = {"weight": {0: torch.tensor([0, 2])}}


Maker = Callable[..., Optimizer]


def _after_a_step(kind: Maker, **options: Any) -> tuple[torch.nn.Linear, Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = kind(model.parameters(), lr=0.1, **options)
    model(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("kind", [SGD, Adam, RMSprop, NAdam])
def test_state_of_the_parameters_shape_loses_the_same_rows(kind: Maker) -> None:
    model, optimizer = _after_a_step(kind, **({"momentum": 0.9} if kind is SGD else {}))
    before = {key: value.clone() for key, value in optimizer.state[model.weight].items()}
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    whole = [key for key, value in before.items() if value.shape == (3, 4)]
    assert whole
    for key, value in optimizer.state[model.weight].items():
        assert torch.equal(value, before[key][[0, 2]] if key in whole else before[key])
    assert all(v.shape == (3,) for v in optimizer.state[model.bias].values() if v.dim())


def test_undoing_brings_the_old_tensors_back() -> None:
    model, optimizer = _after_a_step(Adam)
    before = dict(optimizer.state[model.weight])
    undo = Undo()
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, undo)
    undo.run()
    assert all(value is before[key] for key, value in optimizer.state[model.weight].items())


def test_state_that_is_not_element_wise_is_refused_before_anything_changes() -> None:
    model, optimizer = _after_a_step(Adam)
    optimizer.state[model.weight]["row_factor"] = torch.zeros(3)
    before = dict(optimizer.state[model.weight])
    with pytest.raises(SurgeryError, match=r"Adam holds state 'row_factor' of shape \(3,\) for weight"):
        cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert all(value is before[key] for key, value in optimizer.state[model.weight].items())


def test_an_optimizer_without_state_is_fine() -> None:
    model = torch.nn.Linear(4, 3)
    optimizer = SGD(model.parameters(), lr=0.1)
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert not optimizer.state


def test_state_that_is_no_tensor_is_left_alone() -> None:
    model, optimizer = _after_a_step(Adam)
    optimizer.state[model.weight]["note"] = "mine"
    cut_state(optimizer, named(dict(model.named_parameters())), KEPT, Undo())
    assert optimizer.state[model.weight]["note"] == "mine"
    step: Tensor = optimizer.state[model.weight]["step"]
    assert step == 1
