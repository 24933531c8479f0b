"""One line in a script for the Hugging Face `Trainer` prunes what it trains."""

from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import esper
from esper.errors import CheckpointError, ConfigError, UntraceableError
from esper.integrations.transformers import EsperCallback
from tests.integrations.task import (
    BATCH,
    EPOCHS,
    SAMPLES,
    Network,
    Stream,
    Vectors,
    accuracy,
    same,
    settings,
    weights,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
STEPS = SAMPLES // BATCH


def right(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def callback(folder: Path, **wishes: Any) -> EsperCallback:
    given: dict[str, Any] = {"target": 0.5, "run_dir": folder / "esper", "config": settings()}
    return EsperCallback(**{**given, **wishes})


def trainer(folder: Path, *callbacks: TrainerCallback, **changes: Any) -> Trainer:
    """A user's script, all but the call of `train`."""
    torch.set_num_threads(1)
    model = changes.pop("model", None) or Network()
    data: dict[str, Any] = {"train_dataset": Vectors(0), "eval_dataset": Vectors(1)}
    for name in data.keys() & changes.keys():
        data[name] = changes.pop(name)
    asked: dict[str, Any] = {
        "output_dir": str(folder / "trainer"),
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 64,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "use_cpu": True,
        "metric_for_best_model": "accuracy",
        **changes,
    }
    kind = asked.pop("kind", Trainer)
    arguments = TrainingArguments(**asked)
    made: Trainer = kind(
        model=model, args=arguments, **data, compute_metrics=right, callbacks=list(callbacks)
    )
    return made


class Killer(TrainerCallback):  # type: ignore[misc]
    """Kills the process when a checkpoint of the trainer stands."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class Averaging(TrainerCallback):  # type: ignore[misc]
    """Keeps a mean of the weights, as plain tensors."""

    def __init__(self, model: nn.Module) -> None:
        self.mean = {name: value.detach().clone() for name, value in model.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        for name, value in named["model"].named_parameters():
            self.mean[name] = 0.9 * self.mean[name] + 0.1 * value.detach()


def by_hand(folder: Path) -> nn.Module:
    """The same training in a loop of one's own."""
    network, data, held_out = Network(), Vectors(0), Vectors(1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    total = EPOCHS * STEPS
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)

    def loss(output: Any, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output["logits"], labels)

    session = esper.attach(
        network,
        optimizer,
        loss=loss,
        sample=(data.inputs[:2], data.labels[:2]),
        probe=[(held_out.inputs, held_out.labels)],
        run_dir=folder / "by-hand",
        config={**settings(), "pruning": {**settings()["pruning"], "target": {"flops": 0.5}}},
        epochs=EPOCHS,
    )
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(data)).split(BATCH):
            optimizer.zero_grad()
            loss(network(data.inputs[chosen]), data.labels[chosen]).backward()
            optimizer.step()
            scheduler.step()
        network.eval()
        right = network(held_out.inputs)["logits"].argmax(1) == held_out.labels
        network.train()
        session.end_epoch(accuracy=float(right.float().mean()))
    session.finish(latency=False)
    return network


def test_a_mean_that_another_callback_keeps_is_cut_with_the_network(tmp_path: Path) -> None:
    model = Network()
    averaging = Averaging(model)
    ours = callback(tmp_path, companions=averaging.mean)
    trainer(tmp_path, averaging, ours, model=model).train()
    assert ours.session is not None
    assert any(mark.kind == "cut" for mark in ours.session.log.marks)
    now = {name: value.shape for name, value in model.named_parameters()}
    assert {name: value.shape for name, value in averaging.mean.items()} == now
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in Network().parameters())


def test_one_line_prunes_as_well_as_a_loop_by_hand(tmp_path: Path) -> None:
    ours = callback(tmp_path)
    script = trainer(tmp_path, ours, max_grad_norm=0.5, save_strategy="steps")  # saves at the end, before
    script.train()  # the last evaluation
    assert ours.result is not None
    assert ours.session is not None
    assert ours.session.epoch == EPOCHS
    assert not any("nothing new to save" in note for note in ours.session.log.notes)
    assert ours.result.reached >= 0.5
    assert script.model is ours.result.model
    assert accuracy(script.model) > accuracy(by_hand(tmp_path)) - 0.05
    assert script.evaluate()["eval_accuracy"] == ours.result.report.quality_after
    assert sum(p.numel() for p in script.model.parameters()) < 0.6 * sum(
        p.numel() for p in Network().parameters()
    )


def test_a_training_that_ends_within_an_epoch_and_goes_on_has_no_period_too_many(tmp_path: Path) -> None:
    ends = STEPS * 2 + STEPS // 2
    every = STEPS // 2
    asked: dict[str, Any] = {"save_strategy": "steps", "max_steps": ends}
    first = callback(tmp_path, every_n_steps=every)
    trainer(tmp_path, first, **asked).train()
    assert first.session is not None
    assert first.session.epoch == ends // every
    assert first.session.log.epochs[-1].step == ends
    again = callback(tmp_path, every_n_steps=every)
    script = trainer(tmp_path, again, save_strategy="no", num_train_epochs=4)
    script.train(resume_from_checkpoint=str(tmp_path / "trainer" / f"checkpoint-{ends}"))
    assert again.session is not None
    steps = [row.step for row in again.session.log.epochs]
    assert steps == [every * n for n in range(1, 4 * STEPS // every + 1)]


def test_an_older_checkpoint_of_the_trainer_is_as_good_and_a_cut_one_fits_a_fresh_network(
    tmp_path: Path,
) -> None:
    saving = {"save_strategy": "epoch", "load_best_model_at_end": True}
    ours = callback(tmp_path)
    first = trainer(tmp_path, ours, **saving)
    first.train()
    cuts = [mark.epoch for mark in ours.session.log.marks if mark.kind == "cut"]  # type: ignore[union-attr]
    assert cuts[0] < EPOCHS - 1
    assert first.evaluate()["eval_accuracy"] > 0.5
    place = Path(first.args.output_dir, f"checkpoint-{(cuts[0] + 1) * STEPS}")
    again = trainer(tmp_path, callback(tmp_path), **saving)
    again.train(resume_from_checkpoint=str(place))
    assert same(weights(again.model), weights(first.model))


def marks(ours: EsperCallback) -> list[tuple[str, int]]:
    assert ours.session is not None
    return [(mark.kind, mark.epoch) for mark in ours.session.log.marks]


class Bests(TrainerCallback):  # type: ignore[misc]
    """Writes down what counts as the best when a step begins."""

    def __init__(self) -> None:
        self.seen: dict[int, str | None] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen[state.global_step] = state.best_model_checkpoint


def test_masks_and_what_counts_as_the_best_are_the_same_after_a_resume_from_before_a_cut(
    tmp_path: Path,
) -> None:
    saving = {"save_strategy": "epoch", "load_best_model_at_end": True}
    whole, parted = Bests(), Bests()
    ours = callback(tmp_path)
    trainer(tmp_path, ours, whole, **saving).train()
    step = marks(ours)[1][1] * STEPS  # of the first cut, after which another mask follows
    place = str(tmp_path / "trainer" / f"checkpoint-{step}")
    again = callback(tmp_path)
    trainer(tmp_path, again, parted, **saving).train(resume_from_checkpoint=place)
    assert marks(again) == marks(ours)
    assert parted.seen[step] is None  # what was saved there was measured before the mask
    assert parted.seen == {at: best for at, best in whole.seen.items() if at >= step}


def test_of_several_evaluated_sets_the_loss_on_the_first_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sets = {"eval_dataset": {"near": Vectors(1), "far": Vectors(3)}, "metric_for_best_model": None}
    ours = callback(tmp_path)
    with caplog.at_level(logging.INFO, "esper"):
        trainer(tmp_path, ours, **sets).train()
    assert "decisions are made by the loss on the first, near_loss." in caplog.text
    assert ours.result is not None
    assert ours.result.report.metric == "near_loss"
    assert ours.result.reached >= 0.5
    mistyped = callback(tmp_path / "mistyped", metric="acuracy")
    with caplog.at_level(logging.INFO, "esper"):
        trainer(tmp_path / "mistyped", mistyped, **sets, num_train_epochs=2).train()
    named = "far_accuracy, far_loss, near_accuracy, near_loss"
    assert caplog.text.count(f"Decisions wait for acuracy, and what was evaluated is {named}.") == 1
    assert "attach(" not in str(mistyped.result)


class Own(Trainer):  # type: ignore[misc]
    """Computes its loss in a way of its own."""

    def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        return 2 * model(**inputs)["loss"]


def test_a_loss_of_the_trainers_own_is_told_unless_it_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked: dict[str, Any] = {"kind": Own, "max_steps": 1, "eval_strategy": "no"}
    trainer(tmp_path, callback(tmp_path), **asked).train()
    assert caplog.text.count("This Own computes its loss by a compute_loss of its own") == 1
    caplog.clear()

    def doubled(output: Any, labels: Tensor) -> Tensor:
        return 2 * nn.functional.cross_entropy(output["logits"], labels)

    trainer(tmp_path / "b", callback(tmp_path / "b", loss=doubled), **asked).train()
    assert "compute_loss" not in caplog.text


def test_until_something_is_masked_nobody_notices_the_callback(tmp_path: Path) -> None:
    late = settings(pruning={"schedule": {"start_epoch": 4, "end_epoch": 5}})
    short = {"num_train_epochs": 5, "eval_strategy": "epoch", "lr_scheduler_type": "cosine"}
    plain = trainer(tmp_path / "plain", **short, max_steps=4 * STEPS)
    plain.train()
    ours = trainer(tmp_path / "ours", callback(tmp_path, config=late), **short, max_steps=4 * STEPS)
    with pytest.raises(ConfigError, match="ramp"):  # it would end after the run: said before the first step
        ours.train()
    early = callback(tmp_path / "early", config=settings(pruning={"schedule": {"start_epoch": 4}}))
    again = trainer(tmp_path / "early", early, **short, max_steps=4 * STEPS)
    again.train()
    assert early.result is not None
    assert early.result.reached == 0
    assert same(weights(again.model), weights(plain.model))


def test_a_stream_that_is_never_evaluated_is_decided_about_by_its_probe(tmp_path: Path) -> None:
    ours = callback(tmp_path)
    stream = {"eval_strategy": "no", "max_steps": 80, "metric_for_best_model": None}
    script = trainer(
        tmp_path, ours, train_dataset=Stream(), gradient_accumulation_steps=2, bf16=True, **stream
    )
    script.train()
    assert ours.result is not None
    assert ours.result.report.metric == "probe_loss"
    assert ours.result.report.period_steps == 4
    assert ours.result.reached >= 0.5


def test_a_network_with_a_configuration_is_saved_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=12, max_position_embeddings=8, num_labels=4, **shape)
    )

    class Words(Vectors):
        def __getitem__(self, index: int) -> dict[str, Tensor]:
            words = self.inputs[index].abs().mul(4).long().clamp(max=11)
            return {"input_ids": words[: 4 + index % 3], "labels": self.labels[index]}

    def padded(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        words = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        return {
            "input_ids": words,
            "attention_mask": (words > 0).long(),
            "labels": torch.stack([r["labels"] for r in rows]),
        }

    ours = callback(tmp_path, target=0.3)
    script = trainer(
        tmp_path,
        ours,
        model=model,
        train_dataset=Words(0, 128),
        eval_dataset=Words(1, 192),
        num_train_epochs=6,
    )
    script.data_collator = padded
    script.train()
    assert ours.result is not None
    assert ours.result.reached >= 0.25
    script.save_model(str(tmp_path / "saved"))
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.config.intermediate_size < 128
    batch = padded([Words(2)[n] for n in range(16)])
    model.eval()
    assert torch.equal(again(**batch).logits, model(**batch).logits)


class Refused(Network):
    """Does what no exporter can follow."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        if float(inputs.sum()) > 0:
            inputs = inputs + 1
        return super().forward(inputs, labels)


def test_what_cannot_be_followed_is_refused_before_the_first_step(tmp_path: Path) -> None:
    script = trainer(tmp_path, callback(tmp_path), model=Refused())
    before = weights(script.model)
    with pytest.raises(UntraceableError):
        script.train()
    assert same(weights(script.model), before)
    with pytest.raises(ConfigError, match="no eval_dataset"):
        trainer(tmp_path, callback(tmp_path), eval_dataset=None, eval_strategy="no").train()
    with pytest.raises(ConfigError, match="two EsperCallbacks"):
        trainer(tmp_path, callback(tmp_path), callback(tmp_path / "b")).train()
    with pytest.raises(ConfigError, match="Nothing was asked for"):
        EsperCallback(run_dir=tmp_path)
    with pytest.raises(ConfigError, match="distill"):
        callback(tmp_path, config={"pruning": {"recovery": {"distill": True}}})


def test_a_callback_follows_one_training_and_a_run_belongs_to_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = callback(tmp_path)
    script = trainer(tmp_path, ours, num_train_epochs=2, save_strategy="epoch")
    with caplog.at_level(logging.WARNING, "esper"):
        script.train()
    assert "2 period(s)" in caplog.text
    state = Path(script.args.output_dir, f"checkpoint-{2 * STEPS}", "trainer_state.json")
    assert json.loads(state.read_text())["stateful_callbacks"]["EsperCallback"]["attributes"]["_saved"]
    with pytest.raises(ConfigError, match="has followed a training already"):
        script.train()
    with pytest.raises(CheckpointError, match="holds a run already"):
        trainer(tmp_path, callback(tmp_path)).train()
    elsewhere = trainer(tmp_path, callback(tmp_path / "elsewhere"), num_train_epochs=2)
    with pytest.raises(esper.EsperError, match="run_dir"):
        elsewhere.train(resume_from_checkpoint=True)
