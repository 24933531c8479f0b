"""Several processes in somebody else's loop prune one network, with the one line that one process has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from lightning.pytorch import Trainer as Lightning
from lightning.pytorch.strategies import ModelParallelStrategy
from transformers import TrainerCallback

from esper.errors import CheckpointError, ConfigError
from tests.integrations import test_lightning as by_lightning
from tests.integrations import test_transformers as by_trainer
from tests.integrations.ranks import RANKS, Launcher, fingerprint
from tests.integrations.task import EPOCHS, same, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # as in the tests with one process


@pytest.fixture(scope="module")
def ranks() -> Iterator[Launcher]:
    with Launcher() as launcher:
        yield launcher


ASKED: dict[str, Any] = {
    "num_train_epochs": 6,
    "gradient_accumulation_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_strategy": "steps",
    "save_steps": 3,
}


def by_a_trainer(folder: Path, killed: bool, resumed: bool) -> tuple[Any, ...]:
    """One rank of a script for the Trainer."""
    ours = by_trainer.callback(folder, every_n_steps=2)  # so that saves come within periods
    others = [by_trainer.Killer(9)] if killed else []
    script = by_trainer.trainer(folder, ours, *others, **ASKED, load_best_model_at_end=True)
    script.train(resume_from_checkpoint=resumed)
    assert ours.result is not None
    assert ours.result.model is script.model
    script.save_model(str(folder / "small"))
    with pytest.raises(CheckpointError, match="holds a run already") as refusal:
        by_trainer.trainer(folder, by_trainer.callback(folder), **ASKED).train()
    kinds = {mark.kind for mark in ours.result.report.marks}
    best = script.evaluate()["eval_accuracy"]  # of the samples of all ranks
    assert best in [row.metrics.get("accuracy") for row in ours.result.report.epochs]
    saved = safetensors.torch.load_file(folder / "small" / "model.safetensors")  # the refusal came after
    assert same(saved, weights(script.model))
    return fingerprint(script.model), ours.result.reached, best, kinds, str(refusal.value)


def test_processes_of_the_trainer_prune_one_network_go_on_after_a_kill_and_are_refused_together(
    tmp_path: Path, ranks: Launcher
) -> None:
    first, second = ranks.told_by_ranks(by_a_trainer, tmp_path / "whole", False, False)
    assert first[:4] == second[:4]
    assert first[1] >= 0.5
    assert first[3] >= {"mask", "cut"}
    assert second[4] == f"On rank 0: {first[4]}"
    parts = tmp_path / "parts"
    assert ranks.told_by_ranks(by_a_trainer, parts, True, False) == [None, None]
    again = ranks.told_by_ranks(by_a_trainer, parts, False, True)
    assert [told[0] for told in again] == [first[0], first[0]]


class Shards(TrainerCallback):  # type: ignore[misc]
    """Lets its trainer say what one with FSDP on several cards says of itself."""

    def __init__(self, folder: Path) -> None:
        self.trainer = by_trainer.trainer(folder, self, by_trainer.callback(folder))

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.is_fsdp_enabled = True


def test_a_sharding_trainer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trains by FSDP.*how-to-many-gpus"):
        Shards(tmp_path).trainer.train()


def by_lightnings_trainer(folder: Path, killed: bool, resumed: bool) -> tuple[Any, ...]:
    """One rank of a script for Lightning."""
    ours, others = by_lightning.callback(folder), [by_lightning.Killer()] if killed else []
    changes: dict[str, Any] = {"ckpt_path": "last"} if resumed else {}
    changes |= {"devices": RANKS, "strategy": "ddp", "max_epochs": 8, "accumulate_grad_batches": 2}
    _, module = by_lightning.fit(folder, ours, *others, **changes)
    assert ours.result is not None
    assert ours.result.model is module
    assert ours.session is not None
    log = ours.session.log
    return fingerprint(module), ours.result.reached, log.notes, log.moments()


def test_processes_of_lightning_prune_one_network_and_go_on_after_a_kill(
    tmp_path: Path, ranks: Launcher
) -> None:
    first, second = ranks.told_by_ranks(by_lightnings_trainer, tmp_path / "whole", False, False)
    assert first[:2] == second[:2]
    assert first[1] >= 0.5
    told = (
        "The processes have measured accuracy differently, each on its own share of the data: decisions are"
    )
    assert sum(note.startswith(told) for note in first[2]) == 1
    assert second[2] == []
    parts = tmp_path / "parts"
    assert ranks.told_by_ranks(by_lightnings_trainer, parts, True, False) == [None, None]
    again = ranks.told_by_ranks(by_lightnings_trainer, parts, False, True)
    assert [told[0] for told in again] == [first[0], first[0]]
    assert again[0][3] == first[3]
    assert {mark.kind for mark in first[3]} >= {"mask", "cut"}
    pins = list((parts / "esper" / "checkpoints" / "pins").glob("*.framework"))
    assert 1 <= len(pins) <= EPOCHS


def test_processes_of_lightning_that_cannot_be_followed_are_refused_by_name(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "devices": RANKS,
        "accelerator": "cpu",
        "callbacks": [by_lightning.callback(tmp_path)],
    }
    for strategy, named in (
        ("ddp_fork", 'hand back nothing but weights.*Say strategy="ddp"'),
        (ModelParallelStrategy(), "trains by ModelParallelStrategy.*how-to-many-gpus"),
    ):
        trainer = Lightning(strategy=strategy, **asked)
        with pytest.raises(ConfigError, match=named):
            by_lightning.callback(tmp_path).setup(trainer, by_lightning.Module(), "fit")
    part = by_lightning.callback(tmp_path, network="net")
    with pytest.raises(ConfigError, match="network='net' names a part"):
        part.setup(Lightning(strategy="ddp", **asked), by_lightning.Module(), "fit")
