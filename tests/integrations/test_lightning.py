"""One line in a script for Lightning prunes what it trains."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import esper
from esper.errors import CheckpointError, ConfigError, UntraceableError
from esper.integrations.lightning import EsperCallback
from tests.integrations.task import (
    BATCH,
    EPOCHS,
    SAMPLES,
    Network,
    Vectors,
    accuracy,
    killed,
    same,
    settings,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of its own use of torch, and of workers
STEPS = SAMPLES // BATCH


class Module(LightningModule):  # type: ignore[misc]
    """A user's module; without dropout, because Lightning does not restore random states."""

    def __init__(self, criterion: Any = None) -> None:
        super().__init__()
        self.net = Network(dropout=0.0)
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.net(inputs)["logits"]
        return logits

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss: Tensor = self.criterion(self(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 1e-2)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class Manual(Module):
    """Optimizes by itself, with an optimizer for each of two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = nn.Linear(8, 4)

    def training_step(self, batch: Any, _: int) -> None:  # type: ignore[override]
        networks: tuple[nn.Module, ...] = (self, self.other)
        for optimizer, network in zip(self.optimizers(), networks, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(batch[0]), batch[1])
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), 1e-2) for part in (self.net, self.other)]


class Killer(Callback):  # type: ignore[misc]
    """Kills the process in an epoch, when checkpoints of those before stand."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 6:
            os.kill(os.getpid(), signal.SIGKILL)


def batches(seed: int) -> DataLoader[Any]:
    data = Vectors(seed)
    return DataLoader(TensorDataset(data.inputs, data.labels), BATCH)


def callback(folder: Path, **wishes: Any) -> EsperCallback:
    given: dict[str, Any] = {"target": 0.5, "run_dir": folder / "esper", "config": settings()}
    return EsperCallback(**{**given, **wishes})


def fit(folder: Path, *callbacks: Callback, module: Any = None, **changes: Any) -> tuple[Trainer, Any]:
    """A user's script."""
    torch.set_num_threads(1)
    path, held_out = changes.pop("ckpt_path", None), changes.pop("held_out", batches(1))
    best = ModelCheckpoint(folder / "lightning", monitor="accuracy", mode="max", save_last=True)
    asked: dict[str, Any] = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [*callbacks, *([] if held_out is None else [best])],
        "default_root_dir": folder,
        "enable_checkpointing": held_out is not None,
        **changes,
    }
    trainer, module = Trainer(**asked), module or Module()
    trainer.fit(module, batches(0), held_out, ckpt_path=path)
    return trainer, module


def test_one_line_prunes_and_the_trainer_goes_on_working(tmp_path: Path) -> None:
    ours = callback(tmp_path)
    plain = fit(tmp_path / "plain")[1]
    trainer, module = fit(tmp_path, ours, gradient_clip_val=0.5)
    assert ours.result is not None
    assert ours.result.reached >= 0.5
    assert accuracy(module.net) > accuracy(plain.net) - 0.05
    shown = trainer.validate(module, batches(1), verbose=False)[0]["accuracy"]
    assert shown == pytest.approx(ours.result.report.quality_after)
    assert ours.result.report.metric == "accuracy"


def _of_average(name: str) -> Callback:
    if name == "swa":
        return StochasticWeightAveraging(1e-3, swa_epoch_start=0.5)
    return EMAWeightAveraging(decay=0.9)


@pytest.mark.parametrize(("name", "is_first"), [("swa", False), ("ema", True)])
def test_averages_of_the_weights_follow_cuts_and_resumes(tmp_path: Path, name: str, is_first: bool) -> None:
    def run(folder: Path, *others: Callback, **changes: Any) -> tuple[EsperCallback, Any]:
        ours, average = callback(folder), _of_average(name)
        both = (ours, average) if is_first else (average, ours)
        return ours, fit(folder, *both, *others, **changes)[1]

    whole, expected = run(tmp_path / "whole")
    assert whole.result is not None
    assert whole.result.reached >= 0.5
    saved = esper.load(tmp_path / "whole" / "esper", model=Module())  # what is saved is the average, too
    assert same(weights(saved), weights(expected))
    parts = tmp_path / "parts"
    killed(lambda: run(parts, Killer()))
    ours, module = run(parts, ckpt_path="last")
    assert ours.session is not None
    assert {mark.kind for mark in ours.session.log.marks} >= {"mask", "cut"}
    assert same(weights(module), weights(expected))


class Averaged(Module):
    """Keeps an average of its network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ema = AveragedModel(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        self.ema.update_parameters(self.net)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.net.parameters(), 1e-2)


def test_an_average_that_the_module_keeps_follows_the_part_that_it_is_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps in ema an average of its net.*network='net'"):
        fit(tmp_path, callback(tmp_path), module=Averaged())
    ours = callback(
        tmp_path,
        network="net",
        loss=lambda output, target: nn.functional.cross_entropy(output["logits"], target),
        metric="accuracy",
    )
    _, module = fit(tmp_path, ours, module=Averaged())
    assert ours.result is not None
    assert ours.result.reached >= 0.5
    assert [p.shape for p in module.ema.module.parameters()] == [p.shape for p in module.net.parameters()]


class Late(Callback):  # type: ignore[misc]
    """Makes its average when training begins, and keeps it itself."""

    average: AveragedModel

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.average = AveragedModel(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.average.update_parameters(pl_module)


def test_an_average_that_comes_too_late_is_refused_before_the_first_step(tmp_path: Path) -> None:
    module = Module()
    before = weights(module)
    with pytest.raises(ConfigError, match=r"Late\.average was made after EsperCallback had begun"):
        fit(tmp_path, callback(tmp_path), Late(), module=module)
    assert same(weights(module), before)
    ours, late = callback(tmp_path), Late()  # the run that was refused had not begun
    fit(tmp_path, late, ours, module=module)
    assert ours.result is not None
    assert ours.result.reached >= 0.5
    shapes = [parameter.shape for parameter in late.average.module.parameters()]
    assert shapes == [parameter.shape for parameter in module.parameters()]


def test_several_validations_in_an_epoch_are_several_periods(tmp_path: Path) -> None:
    ours = callback(tmp_path)
    fit(tmp_path, ours, val_check_interval=6, max_epochs=5, precision="bf16-mixed", accumulate_grad_batches=2)
    assert ours.result is not None
    assert ours.result.report.period_steps == 3
    assert [row.step for row in ours.result.report.epochs][:3] == [3, 6, 9]
    assert all("accuracy" in row.metrics for row in ours.result.report.epochs)


def test_of_several_optimizers_one_is_named_by_its_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 optimizers train this Manual"):
        fit(tmp_path, callback(tmp_path), module=Manual())

    def loss(output: Any, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output["logits"], target)

    def run(folder: Path, *others: Callback, **changes: Any) -> tuple[EsperCallback, Any]:
        ours = callback(folder, network="net", loss=loss, metric="accuracy")
        return ours, fit(folder, ours, *others, module=Manual(), **changes)[1]

    ours, module = run(tmp_path / "whole")
    assert ours.result is not None
    assert ours.result.reached >= 0.5
    assert ours.result.model is module.net
    parts = tmp_path / "parts"
    killed(lambda: run(parts, Killer()))  # after a cut: what is not pruned comes from Lightning's checkpoint
    assert same(weights(run(parts, ckpt_path="last")[1]), weights(module))


def test_without_validation_a_probe_decides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no validation data"):
        fit(tmp_path, callback(tmp_path), held_out=None, max_steps=40)
    ours = callback(tmp_path, probe=batches(1))
    fit(tmp_path, ours, held_out=None, max_steps=80)
    assert ours.result is not None
    assert ours.result.report.metric == "probe_loss"
    assert ours.result.reached >= 0.5


class Refused(Module):
    """Does what no exporter can follow."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs + 1 if float(inputs.sum()) > 0 else inputs)


def test_what_cannot_be_followed_is_refused_before_the_first_step(tmp_path: Path) -> None:
    module = Refused()
    before = weights(module)
    with pytest.raises(UntraceableError):
        fit(tmp_path, callback(tmp_path), module=module)
    assert same(weights(module), before)
    with pytest.raises(ConfigError, match="holds 0 losses"):
        fit(tmp_path, callback(tmp_path), module=Module(nn.functional.cross_entropy))
    with pytest.raises((ConfigError, RuntimeError), match=r"two EsperCallbacks|more than one"):
        fit(tmp_path, callback(tmp_path), callback(tmp_path / "b"))


def test_a_callback_follows_one_training_and_a_run_belongs_to_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = callback(tmp_path, metric="f1")
    with caplog.at_level(logging.INFO, "esper"):
        fit(tmp_path, ours, max_epochs=2)
    assert "2 period(s)" in caplog.text
    assert caplog.text.count("The target was missed") == 1
    assert str(ours.result).count("The target was missed") == 1
    assert "Decisions wait for f1, and what was evaluated is accuracy." in caplog.text
    with pytest.raises(ConfigError, match="has followed a training already"):
        fit(tmp_path / "b", ours)
    with pytest.raises(CheckpointError, match="holds a run already"):
        fit(tmp_path, callback(tmp_path))
    with pytest.raises(CheckpointError, match="Give the run_dir"):
        fit(tmp_path, callback(tmp_path / "elsewhere"), ckpt_path=tmp_path / "lightning" / "last.ckpt")
