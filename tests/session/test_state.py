"""What a session stores of a run is read again, whichever form it has, and taken back if it does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from esper.checkpoint import (
    CheckpointRef,
    Entry,
    Memory,
    OptimizerState,
    TrainerState,
    Weights,
    load_trainer,
)
from esper.errors import CheckpointError
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork
from esper.runs.network import read_state
from esper.session.growing import Growing
from esper.session.log import RunLog
from esper.session.state import Structure
from tests.session.runs import Training, examples, settings, small_network


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a cut and a mask on trial, its state, and its newest checkpoint."""
    training = Training(tmp_path_factory.mktemp("run"), checkpoint={"keep_last": 100})
    training.until(lambda: training.marks().count("mask") == 2)
    training.session.parts.saving.settle()
    newest = training.session.parts.saving.newest
    assert newest is not None
    yield training, newest
    training.session.detach()


def old_form(checkpoint: CheckpointRef, *, is_first: bool) -> TrainerState:
    """The same state as it was stored before parts had names."""
    trainer = load_trainer(checkpoint)
    new = trainer.extra
    terms, masks, trial = new["terms"], new["masks"], {**new["trial"], **new["setbacks"]}
    extra = {
        "parameter_names": new["parameter_names"],
        "cuts": new["structure"]["changes"],
        "keep": masks["keep"],
        "originals": masks["originals"],
        "companions": new["companions"],
        "criterion": {},
        "frozen": new["trainable"],
        "optimizer_class": terms["trained_by"],
        "tracker": new["tracker"],
        "coordinator": new["coordinator"],
        "origin": terms["origin"],
        "log": {**new["log"], **{name: new["progress"][name] for name in ("epochs", "decisions")}},
        "workers": new["workers"],
        "trial": trial,
        "epochs_planned": terms["epochs_planned"],
        "metric": terms["metric"],
        "higher_is_better": terms["higher_is_better"],
        "config": terms["config"],
    }
    if is_first:
        watch = dict(trial["watch"])
        extra["changes"] = watch.pop("changes")
        extra["trial"] = {"watch": watch, "rollbacks": trial["rollbacks"]}
        del extra["criterion"], extra["frozen"], extra["optimizer_class"]
    return replace(trainer, extra=extra)


def stored(training: Training, checkpoint: CheckpointRef, state: TrainerState, step: int) -> CheckpointRef:
    """A checkpoint with this state and the other files of another."""
    store = training.session.parts.saving.store
    other = {name: checkpoint.file(name).read_bytes() for name in ("anatomy.json",)}
    blobs = {kind: store.catalog.blob(checkpoint, kind) for kind in checkpoint.manifest.blobs}
    return store.save(step, state.epoch, {**state.files(), **other}, blobs=blobs)


@pytest.mark.parametrize("is_first", [False, True])
def test_runs_of_earlier_versions_go_on_as_they_were(saved: Any, is_first: bool) -> None:
    training, newest = saved
    before = training.fingerprint()
    step = 1000 + is_first
    older = stored(training, newest, replace(old_form(newest, is_first=is_first), step=step), step)
    trial = training.session.parts.trial
    changes = {name: change.tolist() for name, change in trial.watch.changes.items()}
    training.session.parts.saving.return_to(older, as_rollback=False)
    assert training.session.step == step
    training.session.log.progress.step = newest.step
    assert training.fingerprint() == before
    assert {name: change.tolist() for name, change in trial.watch.changes.items()} == changes
    assert training.marks() == ["mask", "cut", "mask"]


def test_a_state_of_a_later_version_is_refused_with_the_version_that_reads_it(saved: Any) -> None:
    training, newest = saved
    trainer = load_trainer(newest)
    before = training.fingerprint()
    later = replace(trainer, extra={**trainer.extra, "version": 3, "written_by": "9.1"})
    checkpoint = stored(training, newest, later, 2000)
    with pytest.raises(CheckpointError, match=r"written by Esper 9\.1 in form 3.*Use Esper 9\.1\."):
        training.session.parts.saving.return_to(checkpoint, as_rollback=False)
    assert training.fingerprint() == before


def misfits(parts: dict[str, Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """States that one part refuses each, and what it says."""
    masks, model = parts["masks"], parts["model"]
    short = {name: t[:1] for name, t in model["tensors"].items()}
    return {
        "schedulers": ({**parts, "schedulers": []}, "0 schedulers, and 1 were given"),
        "scaler": ({**parts, "scaler": {}}, "a scaler, and none was given"),
        "rng": ({**parts, "rng": {**parts["rng"], "generators": {"loader": 1}}}, "generators"),
        "structure": ({**parts, "structure": {"changes": [], "companions": 1}}, r"1 companion\(s\), and 0"),
        "model": ({**parts, "model": {**model, "tensors": short}}, "another model"),
        "masks": ({**parts, "masks": {**masks, "anatomy": "another"}}, "reads as another structure"),
    }


@pytest.mark.parametrize("part", ["schedulers", "scaler", "rng", "structure", "model", "masks"])
def test_a_state_that_one_part_refuses_changes_nothing(saved: Any, part: str) -> None:
    training, newest = saved
    wrong, message = misfits(read_state(newest))[part]
    before, marks = training.fingerprint(), training.marks()
    memory = training.session.parts.saving.memory
    with pytest.raises(CheckpointError, match=message):
        memory.load(wrong)
    assert training.fingerprint() == before
    assert training.marks() == marks


def test_cuts_that_were_made_for_a_state_that_does_not_fit_are_taken_back(saved: Any) -> None:
    _, newest = saved
    model = small_network()
    before = [tuple(tensor.shape) for tensor in model.state_dict().values()]
    first, *others = model.parameters()
    optimizer = torch.optim.AdamW([{"params": [first]}, {"params": others}], 1e-2)
    network = LiveNetwork(model, optimizer, examples(16, 0), nn.CrossEntropyLoss())
    tracker = ImportanceTracker(network.anatomy, network.named_parameters(), optimizer, settings().importance)
    growing = Growing(network, tracker, None, settings().growing, RunLog(), None, None)
    memory = Memory(
        [
            Entry("structure", Structure(network, tracker, growing), is_structure=True),
            Entry("model", Weights(model)),
            Entry("optimizer", OptimizerState(optimizer)),
        ]
    )
    with pytest.raises(CheckpointError, match=r"groups have \[6\] .* AdamW have \[1, 5\]"):
        memory.load(read_state(newest))
    assert not network.state()["changes"]
    assert [tuple(tensor.shape) for tensor in model.state_dict().values()] == before
    assert tracker.num_units == network.anatomy.num_units
    network.detach()
    tracker.detach()


def test_a_run_of_which_too_little_was_stored_is_refused_with_what_is_missing(saved: Any) -> None:
    training, newest = saved
    trainer = load_trainer(newest)
    checkpoint = stored(training, newest, replace(trainer, extra={"keep": []}), 3000)
    with pytest.raises(CheckpointError, match=r"says nothing of 'log'.*Use the Esper that run\.json"):
        read_state(checkpoint)
