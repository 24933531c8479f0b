"""A better network teaches in a session, and nothing of it gets into the run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import esper
from esper.checkpoint import load_trainer
from esper.errors import CheckpointError, ConfigError
from esper.kasmina import CheckpointedTeacher, StaticKDLoss
from esper.session.session import Session
from esper.session.teaching import teacher_of
from tests.session.runs import examples, optimizer_of, small_network

X, Y = examples(64, 0)


def better(seed: int = 1, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, classes))


class Run:
    """A few steps with a teacher."""

    def __init__(
        self,
        folder: Path,
        teacher: nn.Module | CheckpointedTeacher | None,
        model: nn.Module | None = None,
        **teaching: object,
    ) -> None:
        torch.set_num_threads(1)
        self.model = small_network() if model is None else model
        self.optimizer, self.loss = optimizer_of(self.model, "adamw"), nn.CrossEntropyLoss()
        self.session: Session = esper.attach(
            self.model,
            self.optimizer,
            loss=self.loss,
            sample=(X[:16], Y[:16]),
            probe=[examples(64, 1)],
            run_dir=folder / "run",
            teacher=teacher,
            config={"teaching": teaching} if teaching else None,
            epochs=4,
            resume=True,
        )

    def epoch(self) -> None:
        for index in torch.arange(64).split(16):
            self.optimizer.zero_grad()
            self.session.loss(self.model(X[index]), Y[index], X[index]).backward()
            self.optimizer.step()
        self.session.end_epoch(accuracy=0.5)

    def notes(self) -> str:
        return "\n".join(self.session.log.notes)


def test_one_argument_adds_a_teacher_to_a_loop(tmp_path: Path) -> None:
    run = Run(tmp_path, better(), temperature=2.0, weight=0.5)
    output = run.model(X)
    answer = better().eval()(X).detach()
    expected = StaticKDLoss(2.0, 0.5)(run.loss(output, Y), output, answer, Y)
    torch.testing.assert_close(run.session.loss(output, Y, X), expected)
    with torch.no_grad():
        assert run.session.loss(output, Y) == run.loss(output, Y)
    with pytest.raises(ConfigError, match=r"session.loss\(output, target, inputs\)"):
        run.session.loss(output, Y)
    assert "teaches with 50% of the loss" in run.notes()


def test_a_loop_draws_the_same_numbers_with_a_teacher_and_without(tmp_path: Path) -> None:
    states = []
    for name, teacher in (("with", better()), ("without", None)):
        run = Run(tmp_path / name, teacher, model=small_network(), weight=0.0)
        torch.manual_seed(5)
        run.epoch()
        states.append((torch.get_rng_state(), *run.model.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_resumed_run_goes_on_with_the_same_teacher_only(tmp_path: Path) -> None:
    run = Run(tmp_path, better())
    run.epoch()
    run.session.detach()
    with pytest.raises(CheckpointError, match=r"the teacher \w{16}, and no teacher is given"):
        Run(tmp_path, None)
    resumed = Run(tmp_path, better())
    resumed.epoch()
    resumed.session.detach()
    straight = Run(tmp_path / "straight", better())
    straight.epoch()
    straight.epoch()
    for ours, theirs in zip(resumed.model.parameters(), straight.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert Run(tmp_path, None, require_same=False).session.teaching.teacher is None


def test_its_weights_are_in_no_checkpoint_and_in_no_optimizer(tmp_path: Path) -> None:
    run = Run(tmp_path, better())
    run.epoch()
    run.session.parts.saving.settle()
    checkpoint = run.session.parts.saving.newest
    assert checkpoint is not None
    saved = load_trainer(checkpoint)
    assert saved.model.keys() == run.model.state_dict().keys()
    assert saved.extra["teacher"] == CheckpointedTeacher(better()).digest
    assert len(saved.optimizer["state"]) == len(list(run.model.parameters()))


def test_another_one_takes_over_under_way_and_a_rollback_leaves_it(tmp_path: Path) -> None:
    run = Run(tmp_path, better())
    run.epoch()
    run.session.teaching.change(CheckpointedTeacher(better(2), int8_weights=True))
    run.epoch()
    run.session.rollback(4)
    assert run.session.teaching.state() == CheckpointedTeacher(better(2), int8_weights=True).digest
    run.session.teaching.change(None)
    output = run.model(X)
    assert run.session.loss(output, Y) == run.loss(output, Y)
    assert "teaches no longer" in run.notes()


def test_a_teacher_for_something_else_is_refused_and_nothing_has_begun(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[16, 5\], and the network with \[16, 4\]"):
        Run(tmp_path, better(classes=5))
    run = Run(tmp_path, better())
    with pytest.raises(ConfigError, match="cannot be asked what the network is asked: RuntimeError"):
        run.session.teaching.change(CheckpointedTeacher(nn.Linear(7, 4)))
    assert run.session.teaching.state() == CheckpointedTeacher(better()).digest


def test_a_teacher_that_is_trained_or_pruned_too_is_refused() -> None:
    model = small_network()
    teacher, optimizer = CheckpointedTeacher(nn.Sequential(model)), optimizer_of(model, "sgd")
    with pytest.raises(ConfigError, match="also held by the SGD"):
        teacher_of(teacher, copy.deepcopy(model), (), optimizer)
    with pytest.raises(ConfigError, match="also held by the network that learns"):
        teacher_of(teacher, model, (), optimizer_of(copy.deepcopy(model), "sgd"))
    with pytest.raises(ConfigError, match="also held by a companion"):
        teacher_of(teacher, better(), (model,), optimizer_of(better(), "sgd"))


def standing(network: nn.Module) -> list[bool]:
    """What learns in a network, and in which mode it is."""
    return [p.requires_grad for p in network.parameters()] + [m.training for m in network.modules()]


def test_who_is_refused_as_a_teacher_learns_as_before(tmp_path: Path) -> None:
    model, other = small_network(), better(classes=5)
    model[3].weight.requires_grad_(False)
    before, others = standing(model), standing(other)
    sharing = nn.Sequential(model[0], nn.ReLU(), nn.Linear(32, 4))
    for network in (model, sharing):
        for given in (nn.Sequential, CheckpointedTeacher):
            with pytest.raises(ConfigError, match="also held by"):
                Run(tmp_path, given(network), model=model)
            assert standing(model) == before
    with pytest.raises(ConfigError, match="A teacher is a network, and str is none"):
        Run(tmp_path, "big.safetensors", model=model)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="There is no such key"):
        Run(tmp_path, other, model=model, wait=3)
    with pytest.raises(ConfigError, match=r"\[16, 5\]"):
        Run(tmp_path, other, model=model)
    run = Run(tmp_path, mine := better(), model=model)
    with pytest.raises(ConfigError, match=r"\[16, 5\]"):
        run.session.teaching.change(other)
    assert standing(other) == others
    assert not any(p.requires_grad for p in mine.parameters())
    run.session.teaching.change(better(2))  # a module, as for attach
    assert run.session.teaching.state() == CheckpointedTeacher(better(2)).digest
    run.session.detach()


def test_a_network_that_rests_may_have_a_teacher(tmp_path: Path) -> None:
    model = small_network().requires_grad_(False)
    assert "teaches with 30% of the loss" in Run(tmp_path, better(), model=model).notes()


def test_a_teacher_that_knows_less_is_told(tmp_path: Path) -> None:
    wrong = better()
    nn.init.constant_(wrong[2].bias, 9.0)  # type: ignore[index]
    wrong[2].bias.data[0] = 30.0  # type: ignore[index]
    assert "no better than the network itself" in Run(tmp_path, wrong).notes()


def test_answers_that_are_no_numbers_are_told_and_teach_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, better())
    ruined = better().state_dict()
    ruined["2.bias"][1] = torch.nan
    assert run.session.teaching.teacher is not None
    run.session.teaching.teacher.load(ruined)
    run.epoch()
    assert all(parameter.isfinite().all() for parameter in run.model.parameters())
    assert "no numbers in 4 step(s)" in run.notes()


def test_a_loop_that_never_asks_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path, better())
    run.session.end_epoch(accuracy=0.5)
    assert "There is a teacher, and the training loop does not call session.loss" in run.notes()
