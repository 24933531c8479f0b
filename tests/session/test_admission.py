"""What a session refuses by name before it begins, and what it takes out of wrappers."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import ConfigError
from esper.nissa import ListSink
from esper.session.admission import check_optimizer, optimizer_in, sinks_in
from esper.session.session import Session
from tests.session.runs import examples, small_network


class Wrapped(torch.optim.Optimizer):
    """As accelerate wraps: of the class, without its constructor, so that it takes no hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        self.optimizer.param_groups = groups


class Lookahead(torch.optim.Optimizer):
    """As many write it: its parts are those of another optimizer, and the constructor is forgotten."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        self.base, self.param_groups, self.defaults = base, base.param_groups, base.defaults


class Margin(nn.Module):
    """A criterion with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(4, 4))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output @ self.centers, target)


def attach(run_dir: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> Session:
    given = {"loss": nn.CrossEntropyLoss(), "sample": examples(16, 0), "run_dir": run_dir, **more}
    return esper.attach(model, optimizer, **given)


def test_an_optimizer_is_taken_out_of_what_is_around_it() -> None:
    inner = torch.optim.SGD(small_network().parameters(), 0.1)
    assert optimizer_in(Wrapped(Wrapped(inner))) is inner
    assert optimizer_in(inner) is inner


@pytest.mark.parametrize("given", [None, "sgd"])
def test_what_holds_no_optimizer_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ConfigError, match=f"A {type(given).__name__} is no torch.optim.Optimizer"):
        optimizer_in(given)


def test_several_optimizers_are_told_where_the_others_go() -> None:
    several = [torch.optim.SGD(small_network().parameters(), 0.1) for _ in range(2)]
    with pytest.raises(ConfigError, match=r"a list of 2 was given\. .* `scheduler=\[other\]`"):
        optimizer_in(several)


def test_an_optimizer_whose_constructor_was_not_called_is_refused_for_that() -> None:
    inner = torch.optim.SGD(small_network().parameters(), 0.1)
    with pytest.raises(
        ConfigError, match=r"`__init__` of Lookahead does not call .* Or give \.base \(SGD\), if"
    ):
        optimizer_in(Lookahead(inner))
    with pytest.raises(ConfigError, match=r"keep what belongs to a parameter in `self\.state"):
        optimizer_in(Wrapped(None))  # type: ignore[arg-type]


def test_weights_that_only_the_optimizer_knows_are_refused_unless_the_loss_holds_them() -> None:
    model, margin = small_network(), Margin()
    optimizer = torch.optim.SGD([*model.parameters(), *margin.parameters()], 0.1)
    check_optimizer(model, optimizer, margin)
    for hidden in (margin.forward, partial(Margin.forward, margin)):
        with pytest.raises(ConfigError, match=r"1 parameter\(s\) that belong neither .* shape \(4, 4\)"):
            check_optimizer(model, optimizer, hidden)


def test_a_relative_run_directory_stays_where_it_was_when_the_process_moves(tmp_path: Path) -> None:
    model, here = small_network(), Path.cwd()
    try:
        os.chdir(tmp_path)
        session = attach("runs/a", model, torch.optim.SGD(model.parameters(), 0.1))
        os.chdir(here)
        session.end_epoch(accuracy=0.5)
        session.detach()
    finally:
        os.chdir(here)
    assert session.run_dir == tmp_path / "runs" / "a"
    assert list((tmp_path / "runs" / "a" / "checkpoints").glob("step-*"))


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def begin() -> tuple[Session, torch.Generator]:
        model, generator = small_network(), torch.Generator().manual_seed(3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return attach(tmp_path, model, optimizer, resume=True, generators={"loader": generator}), generator

    session, generator = begin()
    torch.rand(5, generator=generator)
    session.optimizer.step()
    session.end_epoch(accuracy=0.5)
    expected = torch.rand(5, generator=generator)
    session.detach()

    session, generator = begin()
    assert torch.equal(torch.rand(5, generator=generator), expected)
    session.detach()


def test_what_cannot_be_told_anything_is_no_sink() -> None:
    sink = ListSink()
    assert sinks_in(sink) == sinks_in([sink]) == (sink,)
    assert sinks_in(()) == ()
    for odd, what in ((42, "a thing of the type int"), (ListSink, "the class ListSink")):
        with pytest.raises(ConfigError, match=f"Among `sinks` is {what}, and a sink is an object"):
            sinks_in([sink, odd])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": nn.Linear}, r"`model` is the class Linear.*`Linear\(\.\.\.\)`"),
        ({"model": None}, "`model` is a thing of the type NoneType"),
        ({"loss": nn.CrossEntropyLoss}, r"`loss` is the class.*`CrossEntropyLoss\(\)`"),
        ({"optimizer": torch.optim.SGD}, r"`optimizer` is the class.*`SGD\(model.parameters\(\), \.\.\.\)`"),
        (
            {"scheduler": [torch.optim.lr_scheduler.StepLR]},
            r"`scheduler` is the class.*`StepLR\(optimizer",
        ),
    ],
)
def test_what_was_not_made_yet_is_told(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    network = small_network()
    arguments = {"model": network, "optimizer": torch.optim.SGD(network.parameters(), 0.1), **given}
    with pytest.raises(ConfigError, match=said):
        attach(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_a_class_is_neither_cut_nor_inspected_nor_followed() -> None:
    network: Any = nn.Linear
    for call in (partial(esper.compact, flops=0.5), esper.inspect):
        with pytest.raises(ConfigError, match="the class Linear"):
            call(network, sample=torch.zeros(2, 4))
    optimizer: Any = torch.optim.SGD
    for given in (optimizer, [optimizer]):
        with pytest.raises(ConfigError, match="`optimizer` is the class SGD"):
            esper.compact(small_network(), sample=examples(16, 0)[0], flops=0.5, optimizer=given)
