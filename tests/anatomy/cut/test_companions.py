"""Copies of a network follow its cuts: averages, teachers, schedulers' optimizers, scalers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from esper.anatomy.cut.live import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import inspect, masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.errors import SurgeryError
from tests.anatomy.cutting import half
from tests.kasmina.test_network import Attention, FixedAttention, Transformer

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 12), nn.ReLU(),
        nn.Linear(12, 5),
    )  # fmt: skip


@cache
def anatomy_of_network() -> Anatomy:
    return inspect(network(), X)


def step(model: nn.Module, optimizer: Optimizer, x: Tensor = X) -> None:
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def masked_output(model: nn.Module, anatomy: Anatomy, keep: BoolArray, x: Tensor = X) -> Tensor:
    masked = copy.deepcopy(model).eval()
    zero_masked(dict(masked.named_parameters()), masked_axes(anatomy, keep))
    with torch.no_grad():
        out: Tensor = masked(x)
    return out


def average(model: nn.Module, **options: Any) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), **options)


def test_an_average_loses_the_same_units_and_goes_on_averaging() -> None:
    model = network()
    optimizer, ema = AdamW(model.parameters(), 0.01), average(model, use_buffers=True)
    for _ in range(3):
        step(model, optimizer)
        ema.update_parameters(model)
    anatomy = anatomy_of_network()
    keep = half(anatomy)
    expected = masked_output(ema.module, anatomy, keep)
    cut(model, anatomy, keep, Inputs((X,)), (optimizer,), (ema,))
    assert [p.shape for p in ema.module.parameters()] == [p.shape for p in model.parameters()]
    assert torch.allclose(ema.module.eval()(X), expected, atol=1e-5)
    before = [p.clone() for p in ema.parameters()]
    step(model, optimizer)
    ema.update_parameters(model)
    for old, new, live in zip(before, ema.parameters(), model.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * live, atol=1e-6)
    assert ema.n_averaged == 4


def test_a_plain_copy_and_several_companions_follow() -> None:
    model = network()
    teacher, swa = network(seed=1).requires_grad_(requires_grad=False), AveragedModel(model)
    anatomy = anatomy_of_network()
    keep = half(anatomy)
    expected = masked_output(teacher, anatomy, keep)
    cut(model, anatomy, keep, Inputs((X,)), (), (teacher, swa))
    assert torch.allclose(teacher.eval()(X), expected, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())
    swa.update_parameters(model)
    torch.optim.swa_utils.update_bn([X], swa)


def test_attributes_of_a_companion_follow_and_come_back() -> None:
    torch.manual_seed(0)
    model, x = Transformer(), torch.randn(4, 5, 16)
    ema = AveragedModel(model)
    anatomy = inspect(model, x)
    keep = half(anatomy)
    made = cut(model, anatomy, keep, Inputs((x,)), (), (ema,))
    followed = ema.get_submodule("module.first")
    assert [m.n_head for m in (model.first, followed) if isinstance(m, Attention)] == [2, 2]
    ema.update_parameters(model)
    made.undo(model)
    assert [m.n_head for m in (model.first, followed) if isinstance(m, Attention)] == [4, 4]
    assert [p.shape for p in ema.module.parameters()] == [p.shape for p in Transformer().parameters()]
    ema.update_parameters(model)


def everything(*modules: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize(
    ("companion", "told"),
    [
        (lambda model: nn.Linear(3, 3), "companion Linear holds no copy of Sequential"),
        (lambda model: nn.Sequential(*model), "Sequential shares 11 tensor.*0.weight.*deep copy"),
        (
            lambda model: AveragedModel(nn.Sequential(nn.Linear(4, 4))),
            "companion AveragedModel holds no copy",
        ),
    ],
)
def test_what_is_no_copy_is_refused_and_nothing_changes(
    companion: Callable[[nn.Sequential], nn.Module], told: str
) -> None:
    model = network()
    anatomy, before = anatomy_of_network(), everything(model)
    with pytest.raises(SurgeryError, match=told):
        cut(model, anatomy, half(anatomy), Inputs((X,)), (), (companion(model),))
    assert all(map(torch.equal, before, everything(model)))


def test_a_companion_that_cannot_be_cut_takes_the_cut_back_everywhere() -> None:
    """Its weights fit, its code does not."""
    torch.manual_seed(0)
    model, other, x = Transformer(), Transformer(FixedAttention), torch.randn(4, 5, 16)
    anatomy = inspect(model, x)
    optimizer = AdamW(model.parameters())
    step(model, optimizer, x)
    before, heads = everything(model, other), model.first.n_head
    moments = [v.clone() for s in optimizer.state.values() for v in s.values()]
    with pytest.raises(SurgeryError):
        cut(model, anatomy, half(anatomy), Inputs((x,)), (optimizer,), (other,))
    assert all(map(torch.equal, before, everything(model, other)))
    assert all(map(torch.equal, moments, [v for s in optimizer.state.values() for v in s.values()]))
    assert model.first.n_head == heads
    step(model, optimizer, x)


def test_what_comes_after_can_take_the_cut_back() -> None:
    model = network()
    anatomy, ema = anatomy_of_network(), AveragedModel(model)
    before = everything(model, ema)

    def refuse() -> None:
        assert model.get_parameter("0.weight").shape[0] == 4
        raise SurgeryError("not today")

    with pytest.raises(SurgeryError, match="not today"):
        cut(model, anatomy, half(anatomy), Inputs((X,)), (), (ema,), then=refuse)
    assert all(map(torch.equal, before, everything(model, ema)))


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda n: 0.9**n),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda n: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "SWALR": lambda o: SWALR(o, 0.001, 3),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_with_the_same_optimizer(name: str) -> None:
    def rates(cut_at: int) -> list[list[float]]:
        model = network()
        optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
        scheduler = SCHEDULERS[name](optimizer)
        anatomy, found = anatomy_of_network(), []
        for number in range(6):
            if number == cut_at:
                cut(model, anatomy, half(anatomy), Inputs((X,)), (optimizer,))
            before = model.get_parameter("0.weight").detach().clone()
            step(model, optimizer)
            assert not torch.equal(before, model.get_parameter("0.weight"))
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            found.append([group["lr"] for group in optimizer.param_groups])
            found.append([group.get("momentum", 0.0) for group in optimizer.param_groups])
        return found

    assert rates(cut_at=3) == rates(cut_at=-1)


def test_a_scaler_goes_on_and_still_skips_steps_that_overflow() -> None:
    model = network()
    optimizer, scaler = AdamW(model.parameters(), 0.01), torch.amp.GradScaler("cpu", init_scale=1024.0)

    def scaled_step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(model(X).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    scaled_step(1.0)
    anatomy = anatomy_of_network()
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[:3] = False
    cut(model, anatomy, keep, Inputs((X,)), (optimizer,))
    before = everything(model)
    scaled_step(float("inf"))
    assert scaler.get_scale() == 512.0
    assert all(map(torch.equal, before[:1], everything(model)[:1]))
    scaled_step(1.0)
    assert not torch.equal(before[0], everything(model)[0])
