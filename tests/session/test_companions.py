"""An average of the weights goes through a whole run: masked, cut, saved, rolled back and resumed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import esper
from esper.errors import CheckpointError, ConfigError, SurgeryError
from esper.kasmina import PlainCopy
from esper.session.companions import companions_in
from esper.session.session import Session
from tests.session.runs import EPOCHS, examples, settings, small_network


class Run:
    """A training run with an average that is updated after every step."""

    build: Callable[[], nn.Sequential] = staticmethod(small_network)

    def __init__(self, run_dir: Path, *, compiled: bool = False) -> None:
        torch.set_num_threads(1)
        bare = self.build()
        self.model: nn.Module = bare
        if compiled:
            wrapped = torch.compile(bare, backend="eager")
            assert isinstance(wrapped, nn.Module)
            self.model = wrapped
        self.ema = AveragedModel(bare, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.data, self.held_out = examples(192, 0), examples(192, 1)
        self.session: Session = esper.attach(
            self.model,
            self.optimizer,
            loss=nn.CrossEntropyLoss(),
            sample=(self.data[0][:16], self.data[1][:16]),
            probe=[self.held_out],
            run_dir=run_dir,
            config=settings(),
            epochs=EPOCHS,
            companions=self.ema,
            resume=True,
        )

    def train(self) -> None:
        inputs, targets = self.data
        for index in torch.randperm(len(targets)).split(32):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(inputs[index]), targets[index]).backward()
            self.optimizer.step()
            self.ema.update_parameters(self.session.parts.network.model)

    def epoch(self) -> None:
        self.train()
        self.session.end_epoch(accuracy=0.5)

    def until_masked(self) -> None:
        while not self.session.parts.network.masks.num_masked:
            assert self.session.epoch < EPOCHS
            self.epoch()

    def state(self) -> list[Tensor]:
        live = [*self.model.state_dict().values(), *self.ema.state_dict().values()]
        return [tensor.detach().clone() for tensor in live]


@contextmanager
def running(run_dir: Path, *, compiled: bool = False) -> Iterator[Run]:
    run = Run(run_dir, compiled=compiled)
    try:
        yield run
    finally:
        run.session.detach()


def zeros(module: nn.Module) -> list[Tensor]:
    return [parameter.detach() == 0 for parameter in module.parameters()]


def test_an_average_is_masked_stays_masked_and_is_cut_with_the_network(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.until_masked()
        network = run.session.parts.network
        masked = zeros(network.model)
        assert any(where.any() for where in masked)
        run.train()
        for where, average in zip(masked, run.ema.module.parameters(), strict=True):
            assert not average.detach()[where].count_nonzero()
        while run.session.epoch < EPOCHS:
            run.epoch()
        result = run.session.finish(latency=False)
        assert result.report.parameters_after < result.report.parameters_before
        shapes = [parameter.shape for parameter in result.model.parameters()]
        assert [parameter.shape for parameter in run.ema.module.parameters()] == shapes


def test_a_resumed_run_has_the_average_that_it_left(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        while not run.session.parts.network.changes:
            assert run.session.epoch < EPOCHS
            run.epoch()
        left = run.state()
    with running(tmp_path) as again:
        assert all(map(torch.equal, left, again.state()))
        again.epoch()


def test_a_mask_that_is_taken_back_gives_the_average_its_values_again(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.until_masked()
        masks = run.session.parts.network.masks
        hidden = [name for name in masks.originals() if name.startswith("companion 0: ")]
        assert hidden
        assert all(masks.originals()[name].count_nonzero() for name in hidden if name.endswith("weight"))
        masked = run.state()
        masks.unmask()
        assert not all(map(torch.equal, masked, run.state()))
        assert not any(where.any() for where in zeros(run.ema.module))


def test_going_back_across_a_cut_gives_the_average_its_old_widths(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        before = run.state()
        while not run.session.parts.network.changes:
            assert run.session.epoch < EPOCHS
            run.epoch()
        run.session.rollback(0)
        assert all(map(torch.equal, before, run.state()))
        run.epoch()


def test_a_run_with_an_average_is_not_resumed_without_it(tmp_path: Path) -> None:
    with running(tmp_path) as run:
        run.epoch()
    model = small_network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with pytest.raises(CheckpointError, match=r"holds 1 companion\(s\), and 0 were given"):
        esper.resume(tmp_path, model, optimizer, loss=nn.CrossEntropyLoss())


def test_a_companion_of_another_network_is_refused(tmp_path: Path) -> None:
    model = small_network()
    with pytest.raises(SurgeryError, match="companion Linear holds no copy of Sequential"):
        esper.attach(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            loss=nn.CrossEntropyLoss(),
            sample=examples(16, 0),
            run_dir=tmp_path,
            companions=[nn.Linear(3, 3)],
        )


def test_a_compiled_network_goes_through_a_whole_run(tmp_path: Path) -> None:
    with running(tmp_path, compiled=True) as run:
        assert run.session.model is run.model
        while run.session.epoch < EPOCHS:
            run.epoch()
        result = run.session.finish(latency=False)
        assert result.report.parameters_after < result.report.parameters_before
        assert result.model is run.model
        inputs = run.held_out[0]
        assert torch.allclose(run.model.eval()(inputs), run.session.parts.network.model.eval()(inputs))
        assert torch.allclose(run.model.eval()(inputs), esper.load(tmp_path)(inputs), atol=1e-5)


class _Normed(Run):
    """The same with a batch norm, whose statistics the average has, too."""

    @staticmethod
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))

    def stale(self) -> float:
        """How far the average's running means are from what its own weights make of calibration batches."""
        held_out = self.session.parts.held_out
        assert held_out is not None
        inputs = torch.cat([batch[0] for batch in held_out.calibration])
        first, norm = (self.ema.module.get_submodule(name) for name in "01")
        return float((first(inputs).mean(0) - norm.get_buffer("running_mean")).detach().abs().max())


def test_the_average_has_fresh_statistics_under_a_mask_and_after_it_was_taken_back(tmp_path: Path) -> None:
    run = _Normed(tmp_path)
    run.until_masked()
    assert run.stale() < 1e-5
    for _ in range(2):
        run.train()
        run.session.end_epoch(accuracy=0.0)  # it goes back
    assert not run.session.parts.network.masks.num_masked
    assert run.stale() < 1e-5
    run.session.detach()


@pytest.mark.parametrize(
    ("average", "told"),
    [
        (AveragedModel, "(AveragedModel) holds a copy of the network"),
        (lambda model: [value.detach().clone() for value in model.parameters()], "A list of this process"),
    ],
)
def test_an_average_that_was_not_given_is_told_before_a_cut_parts_it_from_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, average: Callable[[nn.Module], Any], told: str
) -> None:
    model = small_network()
    made, data = average(model), examples(64, 0)
    for name, given in (("without", ()), ("with", made)):
        caplog.clear()
        session = esper.attach(
            model,
            torch.optim.AdamW(model.parameters()),
            loss=nn.CrossEntropyLoss(),
            sample=data,
            probe=[data],
            run_dir=tmp_path / name,
            config=settings(),
            companions=given,
        )
        session.detach()
        assert (told in caplog.text) is (name == "without")


@pytest.mark.parametrize("is_held", [True, False])
def test_no_cut_parts_the_network_from_a_copy_that_the_loop_goes_on_updating(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_held: bool
) -> None:
    model, data = small_network(), examples(192, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    session = esper.attach(
        model,
        optimizer,
        loss=nn.CrossEntropyLoss(),
        sample=(data[0][:16], data[1][:16]),
        probe=[examples(192, 1)],
        run_dir=tmp_path,
        config=settings(),
        epochs=EPOCHS,
    )
    held = [copy.deepcopy(model)] if is_held else []  # made after it was attached
    for _ in range(EPOCHS):
        for index in torch.randperm(192).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data[0][index]), data[1][index]).backward()
            optimizer.step()
            for target in held:
                target.load_state_dict(model.state_dict())
        session.end_epoch(accuracy=0.5)
        assert not (held and session.parts.network.changes)
    assert (not session.parts.network.changes) is is_held
    result = session.finish(latency=False)
    assert result.report.parameters_after < result.report.parameters_before
    assert ("(Sequential) follows the network" in caplog.text) is is_held


class Average:
    """As many libraries keep an average: a plain object that holds a module."""

    def __init__(self, model: nn.Module) -> None:
        self.decay = 0.9
        self.ema = copy.deepcopy(model)


class Shadow:
    """As torch-ema keeps it: a list of tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.collected_params = None
        self.shadow_params = [parameter.detach().clone() for parameter in model.parameters()]


def test_an_object_that_holds_a_companion_is_refused_with_its_name() -> None:
    model = small_network()
    for given in (Average(model), [Average(model)]):
        with pytest.raises(ConfigError, match=r"Average is none\. Give what it holds, `\.ema`"):
            companions_in(given, model)
    with pytest.raises(ConfigError, match=r"Shadow is none\. Give what it holds, `\.shadow_params`"):
        companions_in(Shadow(model), model)
    with pytest.raises(ConfigError, match=r"generator is none\. Give the average that it keeps"):
        companions_in(model.parameters(), model)


def test_a_list_of_tensors_is_one_companion_and_any_other_list_is_several() -> None:
    model = small_network()
    average, kept = AveragedModel(model), Shadow(model).shadow_params
    named = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert companions_in((), model) == ()
    assert companions_in(average, model) == (average,)
    assert [type(one) for one in companions_in(kept, model)] == [PlainCopy]
    assert [type(one) for one in companions_in(named, model)] == [PlainCopy]
    several = companions_in([named, average, kept], model)
    assert [type(one) for one in several] == [PlainCopy, AveragedModel, PlainCopy]
    with pytest.raises(ConfigError, match="Companions 0 and 1 share tensors"):
        companions_in([named, list(named.values())], model)
