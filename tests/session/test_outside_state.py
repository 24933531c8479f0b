"""State outside of network and optimizer goes through a checkpoint, or is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.errors import CheckpointError, ConfigError
from tests.session.runs import examples, small_network

SAMPLE = examples(16, 0)


class Centers(nn.Module):
    """A criterion with weights that are trained and a count that is not."""

    calls: Tensor

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(classes, 4))
        self.register_buffer("calls", torch.zeros(()))
        self.margin = 0.5

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.margin)

    def set_extra_state(self, state: Tensor) -> None:
        self.margin = float(state)

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(scores, target) + (scores - self.centers[target]).square().mean()


def begin(run_dir: Path, criterion: nn.Module, optimizer: Any = torch.optim.AdamW, **more: Any) -> Any:
    model = small_network()
    trained = [*model.parameters(), *criterion.parameters()]
    session = esper.attach(
        model,
        optimizer(trained, 0.01),
        loss=criterion,
        sample=SAMPLE,
        run_dir=run_dir,
        resume=True,
        config=esper.Config.model_validate({"checkpoint": {"background": False}}),
        **more,
    )
    return session, model


def an_epoch(session: Any, model: nn.Module, criterion: nn.Module) -> None:
    session.optimizer.zero_grad()
    criterion(model(SAMPLE[0]), SAMPLE[1]).backward()
    session.optimizer.step()
    session.end_epoch(accuracy=0.5)


def test_a_criterion_a_frozen_layer_and_a_generator_come_back_as_they_were(tmp_path: Path) -> None:
    criterion, generator = Centers(), torch.Generator().manual_seed(7)
    session, model = begin(tmp_path, criterion, generators={"loader": generator})
    torch.rand(3, generator=generator)
    criterion.calls += 5
    criterion.margin = 0.25
    model[0].requires_grad_(False)
    an_epoch(session, model, criterion)
    drawn, centers = torch.rand(4, generator=generator), criterion.centers.detach().clone()
    assert centers.any()
    session.detach()

    again, other = Centers(), torch.Generator()
    session, model = begin(tmp_path, again, generators={"loader": other})
    assert torch.equal(again.centers, centers)
    assert int(again.calls) == 5
    assert again.margin == 0.25
    assert torch.equal(torch.rand(4, generator=other), drawn)
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]
    assert all(p.requires_grad for p in model[3].parameters())
    session.detach()


@pytest.mark.parametrize(
    ("criterion", "optimizer", "message"),
    [
        (Centers(), torch.optim.Adam, "trained by AdamW.*this one is Adam"),
        (Centers(5), torch.optim.AdamW, r"holds a loss with .*\(4, 4\).*has .*\(5, 4\)"),
    ],
)
def test_another_optimizer_or_criterion_is_refused_by_name(
    tmp_path: Path, criterion: nn.Module, optimizer: Any, message: str
) -> None:
    first = Centers()
    session, model = begin(tmp_path, first)
    an_epoch(session, model, first)
    session.detach()
    with pytest.raises(CheckpointError, match=message):
        begin(tmp_path, criterion, optimizer)
    session, model = begin(tmp_path, first)  # nothing was changed, and nothing is held
    session.detach()


def test_a_second_session_and_compact_are_refused_while_one_holds_the_network(tmp_path: Path) -> None:
    criterion = Centers()
    session, model = begin(tmp_path / "first", criterion)
    with pytest.raises(ConfigError, match=r"holds this Sequential already.*session\.detach\(\)"):
        esper.attach(model, session.optimizer, loss=criterion, sample=SAMPLE, run_dir=tmp_path / "second")
    with pytest.raises(ConfigError, match="holds this Sequential already"):
        esper.compact(model, sample=SAMPLE[0], flops=0.3)
    esper.compact(model, sample=SAMPLE[0], flops=0.3, in_place=False)  # a copy is nobody's
    session.detach()
    esper.compact(model, sample=SAMPLE[0], flops=0.3)


def two_optimizers(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """One for matrices, and one for the rest."""
    parameters = list(model.parameters())
    matrices, rest = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    return torch.optim.SGD(matrices, 0.1, momentum=0.9), torch.optim.AdamW(rest, 0.01)


def test_a_second_optimizer_of_the_network_follows_a_cut_a_rollback_and_a_resume(tmp_path: Path) -> None:
    def begun() -> tuple[Any, nn.Module, torch.optim.Optimizer]:
        model = small_network()
        matrices, rest = two_optimizers(model)
        session = esper.attach(
            model,
            matrices,
            loss=nn.CrossEntropyLoss(),
            sample=SAMPLE,
            run_dir=tmp_path,
            scheduler=rest,
            resume=True,
            config=esper.Config.model_validate({"checkpoint": {"background": False}}),
        )
        return session, model, rest

    def epoch(session: Any, model: nn.Module, rest: torch.optim.Optimizer) -> None:
        model.zero_grad()
        F.cross_entropy(model(SAMPLE[0]), SAMPLE[1]).backward()
        session.optimizer.step()
        rest.step()
        session.end_epoch(accuracy=0.5)

    session, model, rest = begun()
    assert session.parts.network.optimizers == (session.optimizer, rest)
    epoch(session, model, rest)
    network = session.parts.network
    keep = network.masks.keep.copy()
    keep[:3] = False
    network.masks.apply(keep)
    assert session.pruning.acting.cut() is not None
    epoch(session, model, rest)
    at_two = {p: state["exp_avg"].clone() for p, state in rest.state.items()}
    epoch(session, model, rest)
    session.rollback(2)
    assert all(torch.equal(rest.state[p]["exp_avg"], value) for p, value in at_two.items())
    session.rollback(1)
    assert all(state["exp_avg"].shape == p.shape for p, state in rest.state.items())
    session.detach()

    session, model, rest = begun()
    epoch(session, model, rest)
    session.detach()


def test_parameters_that_no_known_optimizer_holds_are_named_once(tmp_path: Path, caplog: Any) -> None:
    model = small_network()
    matrices, rest = two_optimizers(model)
    given: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "sample": SAMPLE}
    esper.attach(model, matrices, run_dir=tmp_path / "one", **given).detach()
    assert caplog.text.count("3 trainable parameter(s) of the network (the first: 0.bias)") == 1
    assert "neither saved nor rolled back" in caplog.text
    caplog.clear()
    esper.attach(model, matrices, run_dir=tmp_path / "two", scheduler=rest, **given).detach()
    assert "trainable parameter" not in caplog.text
