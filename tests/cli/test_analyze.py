"""What the command line tells of a run that was trained, masked and cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper import attach
from esper.checkpoint import CheckpointStore, load_trainer, open_key_ring
from esper.elesh import DataRef, read_data
from esper.nissa import acts
from esper.runs import checkpoint_at
from esper.runs.network import examine
from tests.cli.test_main import esper
from tests.session.runs import Training, examples, settings, small_network


def test_groups_are_ranked_by_what_the_checkpoint_holds(trained: Path) -> None:
    document = json.loads(esper("analyze", str(trained), "--json").stdout)
    assert [row["group"] for row in document["groups"]] == ["0", "3"]
    for row in document["groups"]:
        assert row["unmeasured"] == 0
        assert 0 <= row["screen"] <= 1
    left = sum(row["units"] for row in document["groups"])
    assert abs(sum(row["low"] for row in document["groups"]) - 0.3 * left) <= 1
    assert document["plan"] is None
    assert document["quality"] == {}


def test_rankings_are_compared_with_the_truth(trained: Path) -> None:
    document = json.loads(esper("analyze", str(trained), "--against-truth", "--json").stdout)
    quality = document["quality"]
    assert set(quality) == {"screen", "optimizer", "tracker", "magnitude", "twin", "ablation"}
    left = sum(row["units"] for row in document["groups"])
    assert {one["units"] for one in quality.values()} == {left}
    assert all(0 <= one["low_overlap"] <= 1 for one in quality.values())
    text = esper("analyze", str(trained), "--against-truth").stdout
    assert "tau >= 0.85" in " ".join(text.split())
    assert document["targets"] == {"kendall_tau": 0.85, "auc": 0.95, "mape": 0.05}
    for name, one in quality.items():
        is_met = (one["kendall_tau"] >= 0.85, one["auc"] >= 0.95, one["mape"] <= 0.05)
        assert [not met for met in is_met] == [key in one["missed"] for key in document["targets"]], name
    assert any(one["missed"] for one in quality.values())
    assert "missed: " in text
    assert f"{left} units removed one by one" in text


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_run_with_sgd_is_ranked_by_what_training_sampled_and_told_so(
    tmp_path: Path, momentum: float
) -> None:
    training = Training(tmp_path, "sgd")
    training.optimizer.param_groups[0]["momentum"] = momentum
    training.epoch()
    training.epoch()
    tracked = training.session.parts.tracker.fisher()
    training.session.detach()
    found = examine(*checkpoint_at(tmp_path))
    assert np.isnan(found.scores["optimizer"]).all()
    assert (np.argsort(found.scores["tracker"]) == np.argsort(tracked)).all()
    assert np.isfinite(found.scores["screen"]).all()
    text = " ".join(esper("analyze", str(tmp_path)).stdout.split())
    assert " tracker " in text
    assert "not measured" not in text
    assert "keeps no second moments, as SGD does not" in text
    planned = json.loads(esper("analyze", str(tmp_path), "--plan", "--json").stdout)
    assert planned["plan"]["status"] == "accepted"
    assert {row["optimizer"] for row in planned["groups"]} == {None}


def test_what_is_missing_is_told_where_nothing_was_seen_often_enough(tmp_path: Path) -> None:
    training = Training(
        tmp_path, analysis={"min_optimizer_steps": 100}, importance={"min_importance_samples": 1000}
    )
    training.epoch()
    training.session.detach()
    (told,) = examine(*checkpoint_at(tmp_path)).notes
    assert "made 6 of the 100 steps" in told
    assert "stand for 1000" in told


def test_the_truth_is_what_removing_a_unit_costs_on_samples_that_no_score_saw(trained: Path) -> None:
    catalog, checkpoint = checkpoint_at(trained)
    found = examine(catalog, checkpoint, against_truth=True)
    model = small_network()
    with torch.no_grad():  # the newest checkpoint is of the network after its cut
        weights = load_trainer(checkpoint).model
        layers = [layer for layer in model if isinstance(layer, nn.Linear)]
        for layer, name in zip(layers, ("0", "3", "5"), strict=True):
            layer.weight = nn.Parameter(weights[f"{name}.weight"])
            layer.bias = nn.Parameter(weights[f"{name}.bias"])
        data = DataRef(catalog.blob(checkpoint, "batches"), catalog.blob(checkpoint, "samples"))
        batches = read_data(data)[1].validation
        inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        whole = F.cross_entropy(model.eval()(inputs), targets)
        unit = int(found.keep.argmax())
        layers[1].weight[:, unit] = 0
        rise = float(F.cross_entropy(model(inputs), targets) - whole)
    assert found.truth is not None
    assert found.truth[unit] == pytest.approx(rise, abs=1e-5)
    assert np.isnan(found.truth[~found.keep]).all()
    assert np.isfinite(found.scores["twin"][found.keep]).all()
    assert np.ptp(found.scores["twin"]) > 0


def test_the_next_cycle_is_told_and_committed_nowhere(trained: Path) -> None:
    before = sorted(path.name for path in trained.rglob("*"))
    document = json.loads(esper("analyze", str(trained), "--plan", "--json").stdout)
    assert document["plan"]["status"] in {"accepted", "rejected", "skipped"}, document["plan"]
    assert document["plan"]["reason"]
    assert "The next cycle: " in esper("analyze", str(trained), "--plan").stdout
    assert sorted(path.name for path in trained.rglob("*")) == before


def test_a_network_without_residual_blocks_has_none_to_leave_out(trained: Path) -> None:
    assert json.loads(esper("analyze", str(trained), "--json").stdout)["blocks"] is None
    assert json.loads(esper("analyze", str(trained), "--blocks", "--json").stdout)["blocks"] == []
    assert "No residual block can be left out." in esper("analyze", str(trained), "--blocks").stdout


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        logits: Tensor = self.head(x + self.block(x).relu())
        return logits


def test_what_leaving_out_a_block_costs_is_measured_on_the_samples_of_the_run(tmp_path: Path) -> None:
    model = Residual()
    batch = examples(192, 1)
    session = attach(
        model,
        torch.optim.AdamW(model.parameters()),
        loss=nn.CrossEntropyLoss(),
        sample=examples(16, 0),
        probe=[batch],
        run_dir=tmp_path / "run",
        config=settings(),
        epochs=6,
    )
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    session.end_epoch(accuracy=0.5)
    session.detach()
    (found,) = examine(*checkpoint_at(tmp_path / "run"), with_blocks=True).blocks
    inputs, targets = batch[0][:64], batch[1][:64]  # the calibration samples
    with torch.no_grad():
        whole = F.cross_entropy(model.eval()(inputs), targets)
        rise = float(F.cross_entropy(model.head(model.stem(inputs)), targets) - whole)
    assert found.rises.mean() == pytest.approx(rise, abs=1e-6)
    (row,) = json.loads(esper("analyze", str(tmp_path / "run"), "--blocks", "--json").stdout)["blocks"]
    assert row["block"] == "block"
    assert row["parameters_fraction"] == pytest.approx(272 / sum(p.numel() for p in model.parameters()))
    assert row["loss_rise"] == pytest.approx(rise, abs=1e-6)
    assert (row["skip_potential"], row["is_same_size"]) == (pytest.approx(found.skip_potential), True)
    text = esper("analyze", str(tmp_path / "run"), "--blocks").stdout
    assert "loss rise" in text
    assert "skip potential" in text


class Looking(nn.Module):
    """Attention of three heads, two of which look at the same things."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention, self.head = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 4)
        with torch.no_grad():
            weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
            for start in (0, 12):  # queries and keys
                weight[start + 4 : start + 8] = weight[start : start + 4]
                bias[start + 4 : start + 8] = bias[start : start + 4]
            weight[:24] *= 6

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x, x, x, need_weights=False)[0]
        logits: Tensor = self.head(x.mean(1))
        return logits


def test_heads_that_look_at_the_same_things_are_told(tmp_path: Path) -> None:
    model = Looking()
    random = torch.Generator().manual_seed(1)
    batch = torch.randn(192, 5, 12, generator=random), torch.arange(192) % 4
    session = attach(
        model,
        torch.optim.SGD(model.parameters(), 0.0),
        loss=nn.CrossEntropyLoss(),
        sample=(batch[0][:16], batch[1][:16]),
        probe=[batch],
        run_dir=tmp_path / "run",
        config=settings(pruning={"target": None}),
    )
    session.end_epoch(accuracy=0.5)
    session.detach()
    document = json.loads(esper("analyze", str(tmp_path / "run"), "--heads", "--json").stdout)
    assert [row["alike"] for row in document["heads"]] == [[1], [0], []]
    assert [row["diversity"] < 1e-6 for row in document["heads"]] == [True, True, False]
    assert {row["unit"].partition("#")[0] for row in document["heads"]} == {"attention"}
    text = " ".join(esper("analyze", str(tmp_path / "run"), "--heads").stdout.split())
    assert "2 of 3 heads have a pattern like another's" in text


def test_a_network_without_attention_has_no_heads_to_compare(trained: Path) -> None:
    assert json.loads(esper("analyze", str(trained), "--json").stdout)["heads"] is None
    assert "No attention whose heads" in esper("analyze", str(trained), "--heads").stdout


@pytest.mark.parametrize(("backend", "error"), [("element", "within"), ("sketch", "too large")])
def test_single_weights_are_told_with_the_error_of_their_scores(
    tmp_path: Path, backend: str, error: str
) -> None:
    training = Training(tmp_path, importance={"backend": backend, "elements": {"window_steps": 1}})
    training.epoch()
    training.session.detach()
    rows = json.loads(esper("analyze", str(tmp_path), "--elements", "--json").stdout)["elements"]
    assert {row["tensor"] for row in rows} >= {"0.weight", "3.weight"}
    for row in rows:
        assert row["measured"] == row["elements"] or backend == "sketch"  # which knows no zero for certain
        assert row["least"][0]["score"] <= row["median"] <= row["most"][0]["score"]
        assert 0 <= row["below"]["0.001"] <= row["below"]["0.1"] <= 1
        assert (row["error"]["absolute"] > 0) == (backend == "sketch")
    assert error in " ".join(esper("analyze", str(tmp_path), "--elements").stdout.split())


def test_a_run_that_kept_units_only_says_how_to_keep_elements(trained: Path) -> None:
    outcome = esper("analyze", str(trained), "--elements")
    assert outcome.returncode == 2
    assert 'importance.backend = "element"' in " ".join(outcome.stderr.split())


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    outcome = esper("analyze", str(tmp_path / "nothing"))
    assert outcome.returncode == 2
    assert "There is no run directory" in outcome.stderr


def test_the_audit_lists_plans_and_what_became_of_them(trained: Path) -> None:
    document = json.loads(esper("audit", "show", str(trained), "--json").stdout)
    assert document["problems"] == []
    events = document["events"]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["kind"] == "began"
    kinds = [event["kind"] for event in events]
    assert kinds.index("decided") < kinds.index("masked")  # what decides is told before what it leads to
    assert all(event["by"] == "session" for event in events if event["kind"] == "masked")
    text = esper("audit", str(trained)).stdout
    assert "intact" in text
    assert "emrakul" in text


def test_what_is_neither_a_command_of_the_audit_nor_a_run_is_refused_as_no_command(tmp_path: Path) -> None:
    outcome = esper("audit", str(tmp_path / "nothing"))
    assert outcome.returncode == 2
    assert "No such command" in outcome.stderr


def test_an_epoch_after_which_a_mask_was_applied_says_when_it_was_decided(trained: Path) -> None:
    events = json.loads(esper("audit", "show", str(trained), "--json").stdout)["events"]
    first = next(event for event in events if event["kind"] == "masked")
    decided = [event["epoch"] for event in events if event["kind"] == "decided"]
    before = [epoch for epoch in decided if epoch < first["epoch"]][-1]
    assert first["epoch"] not in decided  # or there is a cycle to show
    outcome = esper("audit", "show", str(trained), "--epoch", str(first["epoch"]))
    assert outcome.returncode == 2
    said = " ".join(outcome.stderr.split())
    assert f"applied after epoch {first['epoch']} was decided after epoch {before}." in said


def test_the_newest_checkpoint_that_names_the_last_event_is_named(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, keyring=open_key_ring(tmp_path, create=True), model="net") as store:
        store.audit.emit(acts.WentBack(1, 1))
        for step in (1, 2, 3):
            store.save(step, 1, {"a.bin": b"a"})
    newest = json.loads(esper("audit", "verify", str(tmp_path), "--json").stdout)["newest"]
    assert newest == {"checkpoint": "step-000000003", "number": 1}


def test_what_an_audit_that_was_begun_anew_tells_itself_is_told_apart_from_what_came_later(
    tmp_path: Path,
) -> None:
    def opened() -> CheckpointStore:
        return CheckpointStore(tmp_path, keyring=open_key_ring(tmp_path, create=True), model="net")

    with opened() as store:
        store.audit.emit(acts.WentBack(1, 1))
        store.save(1, 1, {"a.bin": b"a"})
    (tmp_path / "audit.sqlite").unlink()
    with opened() as store:
        store.audit.emit(acts.WentBack(1, 1))
    old = esper("audit", "verify", str(tmp_path))
    assert old.returncode == 1
    assert "the audit tells of that itself" in " ".join(old.stdout.split())
    problems = json.loads(esper("audit", "verify", str(tmp_path), "--json").stdout)["problems"]
    assert [problem["is_told"] for problem in problems] == [True]


def rollbacks(run: Path) -> list[dict[str, object]]:
    events = json.loads(esper("audit", "show", str(run), "--json").stdout)["events"]
    return [event for event in events if event["kind"] in ("withdrawn", "went_back")]


def test_the_audit_tells_of_a_rollback_on_the_command_line_also_after_the_run_was_resumed(
    tmp_path: Path,
) -> None:
    before = Training(tmp_path)
    before.epoch()
    before.epoch()
    before.session.detach()
    assert esper("rollback", str(tmp_path), "--to", "6", "--yes").returncode == 0
    (told,) = rollbacks(tmp_path)
    assert (told["by"], told["severity"]) == ("user", "news")
    assert "@" in str(told["who"])
    assert "from step 12, epoch 2, to the checkpoint of step 6, epoch 1" in str(told["text"])
    after = Training(tmp_path)
    after.epoch()
    after.session.parts.saving.settle()
    assert rollbacks(tmp_path) == [told]
    after.session.rollback(to_step=6)
    assert told["text"] in [mark.text for mark in after.session.log.moments()]
    after.session.detach()
