"""The loop makes the steps that a hand-written one makes, and goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from esper.errors import ConfigError
from esper.tolaria import Metrics, Trainer
from tests.session.runs import examples, settings, small_network

Batch = tuple[Tensor, Tensor]


def batches(seed: int, size: int = 32) -> list[Batch]:
    inputs, targets = examples(160, seed)
    return list(zip(inputs.split(size), targets.split(size), strict=True))


def trainer(folder: Path, model: nn.Module | None = None, **changes: Any) -> Trainer:
    torch.manual_seed(0)
    model = small_network() if model is None else model
    given: dict[str, Any] = {
        "loss": F.cross_entropy,
        "train": batches(0),
        "probe": batches(1),
        "epochs": 2,
        "run_dir": folder / "run",
        "config": {"analysis": {"workers": 0}},
        "optimizer": SGD(model.parameters(), 0.1, momentum=0.9),
    }
    given |= changes
    return Trainer(model, given.pop("optimizer"), **given)


def by_hand(epochs: int, accumulate: int = 1, clip: float | None = None) -> nn.Module:
    """The same training as somebody writes it."""
    torch.manual_seed(0)
    model = small_network()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(epochs):
        waiting = batches(0)
        while waiting:
            step, waiting = waiting[:accumulate], waiting[accumulate:]
            optimizer.zero_grad()
            for x, y in step:
                (F.cross_entropy(model(x), y) / len(step)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("accumulate", "clip", "segments"), [(1, None, None), (2, None, 2), (3, 0.05, None)])
def test_the_steps_are_those_of_a_loop_by_hand(
    tmp_path: Path, accumulate: int, clip: float | None, segments: int | None
) -> None:
    loop = trainer(tmp_path, loop={"accumulate": accumulate, "clip": clip, "segments": segments})
    result = loop.fit()
    assert same(result.model, by_hand(2, accumulate, clip))


def test_masks_and_cuts_are_those_of_a_network_that_keeps_its_activations(tmp_path: Path) -> None:
    results = [
        trainer(tmp_path / name, loop=loop, epochs=6, config=settings()).fit()
        for name, loop in (("kept", {}), ("again", {"segments": 3}))
    ]
    assert same(results[0].model, results[1].model)
    small = sum(p.numel() for p in results[0].model.parameters())
    assert small < 0.9 * sum(p.numel() for p in small_network().parameters())


def test_the_last_step_of_an_epoch_is_made_of_what_is_left(tmp_path: Path) -> None:
    loop = trainer(tmp_path, loop={"accumulate": 4}, epochs=1)
    loop.fit()
    assert loop.session is not None
    assert loop.session.step == 2  # four of five batches, and one


@pytest.mark.parametrize(("scheduled", "rate"), [("epoch", 0.1 / 4), ("step", 0.1 / 2**10)])
def test_the_learning_rate_follows_after_epochs_or_after_steps(
    tmp_path: Path, scheduled: str, rate: float
) -> None:
    model = small_network()
    optimizer = SGD(model.parameters(), 0.1)
    scheduler = StepLR(optimizer, 1, 0.5)
    trainer(tmp_path, model, optimizer=optimizer, scheduler=scheduler, scheduled=scheduled).fit()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


class Listening(nn.Module):
    """Remembers in which precision it has computed, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_network()
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        self.seen.add((self.training, out.dtype))
        return out


def test_a_forward_pass_computes_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    model = Listening()
    loop = trainer(tmp_path, model, loop={"precision": "bfloat16"})
    loop.fit()
    assert (True, torch.bfloat16) in model.seen
    assert (False, torch.bfloat16) in model.seen
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Broken(list[Batch]):
    """Batches whose disk is gone in the third epoch."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        if self.passes == 3:
            raise OSError("the disk with the pictures is gone")
        return super().__iter__()


def test_an_interrupted_run_goes_on_with_the_next_trainer_and_ends_as_if_nothing_had_been(
    tmp_path: Path,
) -> None:
    with pytest.raises(OSError, match="pictures"):
        trainer(tmp_path, train=Broken(batches(0)), epochs=4).fit()
    told: list[int] = []
    result = trainer(tmp_path, epochs=4).fit(lambda epoch, _: told.append(epoch))
    assert told == [3, 4]
    assert same(result.model, by_hand(4))


def test_what_was_measured_is_told_and_reported(tmp_path: Path) -> None:
    told: list[Metrics] = []
    result = trainer(tmp_path, test=batches(2)).fit(lambda _, metrics: told.append(metrics))
    assert set(told[-1]) == {"loss", "accuracy", "test loss", "test accuracy"}
    assert [row.metrics for row in result.report.epochs] == told


def test_a_measure_of_ones_own_takes_the_place_of_loss_and_accuracy(tmp_path: Path) -> None:
    def measure(model: nn.Module) -> Mapping[str, float]:
        assert not model.training
        return {"norm": float(sum(p.norm() for p in model.parameters()))}

    result = trainer(tmp_path, metric="norm", measure=measure).fit()
    assert [set(row.metrics) for row in result.report.epochs] == [{"norm"}] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (batch for batch in batches(0))}, "train is a generator; expected batches"),
        ({"probe": []}, "probe holds no batch at all"),
        ({"metric": "f1"}, "'f1' was not measured; there is 'loss', 'accuracy'"),
        ({"resume": True}, "leave scaler and resume away"),
        ({"model": nn.Linear(8, 4), "loop": {"segments": 4}}, "Linear has no two blocks in a row"),
    ],
    ids=["generator", "empty", "metric", "resume", "segments"],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, **changes).fit()


def test_a_setting_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loop: acumulate: There is no such key; 'accumulate' is near"):
        trainer(tmp_path, loop={"acumulate": 2})


@dataclass
class Named:
    """A batch of a class of one's own, target first."""

    label: Tensor
    inputs: Tensor


class OfBatch(nn.Module):
    """Takes a batch as it is."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.inner(batch["inputs"])  # type: ignore[no-any-return]


class OfInputs(OfBatch):
    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        return self.inner(inputs)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        (OfInputs, Named),
        (OfInputs, lambda label, inputs: {"inputs": inputs, "label": label}),
        (OfBatch, lambda label, inputs: {"inputs": inputs, "label": label}),
    ],
)
def test_batches_of_names_reach_a_compiled_network_the_way_it_takes_them(
    tmp_path: Path, kind: type[OfBatch], form: Any
) -> None:
    def trained(kind: type[OfBatch], folder: str, form: Any) -> nn.Module:
        torch.manual_seed(0)
        network = kind(small_network())
        compiled: Any = torch.compile(network, backend="eager")
        data = {name: [form(y, x) for x, y in batches(seed)] for seed, name in enumerate(("train", "probe"))}
        trainer(tmp_path / folder, compiled, epochs=1, **data).fit()
        return network

    assert same(trained(kind, "named", form), trained(OfInputs, "plain", lambda y, x: (x, y)))
