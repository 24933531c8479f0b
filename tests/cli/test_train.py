"""Runs by recipe: from the beginning, from where one stopped, and what is wrong with a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_main import Outcome, esper

RECIPE = """
run_dir = "{folder}/run"
model = "tests.session.runs:small_network"
train = "{module}:training"
probe = "{module}:deciding"
test = "{module}:judging"
loss = "torch.nn:CrossEntropyLoss"
teacher = "{module}:knowing"
epochs = 6

[optimizer]
type = "torch.optim:AdamW"
lr = 1e-2

[scheduler]
type = "torch.optim.lr_scheduler:CosineAnnealingLR"
T_max = 12

[esper.pruning]
target = {{ flops = 0.4 }}
schedule = {{ start_epoch = 2, end_epoch = 5 }}
recovery = {{ distill = true }}

[esper.analysis]
workers = 0
min_optimizer_steps = 1
calibration_samples = 64
held_out_samples = 128

[esper.validation]
limits = {{ channel = 0.5 }}
min_retention = 0.01

[esper.importance]
stride = 1
min_importance_samples = 0
min_sampled_steps = 1

[esper.pruning.rollback]
channel_drop = 1.0
"""
BATCHES = """
from pathlib import Path
import torch
from tests.session.runs import examples

class Breaking(list):
    passes = 0
    def __iter__(self):
        self.passes += 1
        if self.passes == 4 and Path(r"{folder}/broken").exists():  # one look, two epochs
            raise OSError("the disk with the pictures is gone")
        return super().__iter__()

def batches(seed):
    inputs, targets = examples(192, seed)
    return list(zip(inputs.split(32), targets.split(32)))

def training():
    return Breaking(batches(0))

def deciding():
    return batches(1)

def judging():
    return batches(2)

def knowing():
    torch.manual_seed(9)
    return torch.nn.Linear(8, 4)

def generator():
    yield from batches(0)

def nothing():
    return []
"""


def written(folder: Path, **changes: str) -> Path:
    """A recipe and its module in `folder`; changes replace whole lines by their key."""
    module = f"batches_of_{folder.name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(BATCHES.format(folder=folder))
    lines = RECIPE.format(folder=folder, module=module).splitlines()
    for key, line in changes.items():
        lines = [line.format(module=module) if old.startswith(f"{key} =") else old for old in lines]
    recipe = folder / "recipe.toml"
    recipe.write_text("\n".join(lines))
    return recipe


def refusal(recipe: Path) -> str:
    outcome: Outcome = esper("train", str(recipe))
    assert outcome.returncode == 2
    return " ".join(outcome.stderr.split())


def test_an_interrupted_run_goes_on_and_ends_smaller_and_is_then_only_reported(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    (tmp_path / "broken").touch()
    assert "the disk with the pictures is gone" in refusal(recipe)
    (tmp_path / "broken").unlink()
    outcome = esper("train", str(recipe))
    assert outcome.returncode == 0, outcome.stderr
    assert "run: epoch 2, accuracy" not in outcome.stderr
    assert "run: epoch 3, accuracy" in outcome.stderr
    assert "The whole story" in outcome.stdout
    again = json.loads(esper("train", str(recipe), "--json").stdout)
    assert again["flops_after"] < again["flops_before"]
    assert [row["epoch"] for row in again["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert {"accuracy", "loss", "test accuracy", "test loss"} == set(again["epochs"][-1]["metrics"])
    assert not any("nothing was taught" in note for note in again["notes"])
    assert any("Linear (36 parameters" in note for note in again["notes"])  # the teacher


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": "epochs = 0"}, "epochs: Input should be greater than or equal to 1"),
        ({"lr": "speed = 1e-2"}, "torch.optim:AdamW does not take these arguments"),
        ({"model": 'model = "nowhere:network"'}, "Put it into"),
        ({"model": 'model = "{module}:network"'}, "nothing to call by the name 'network'"),
        ({"model": 'model = "{module}:nothing"'}, "returned list; expected a torch.nn.Module"),
        ({"train": 'train = "{module}:generator"'}, "a DataLoader or a list, no generator"),
        ({"probe": 'probe = "{module}:nothing"'}, "returned no batch at all"),
        ({"loss": 'loss = "cross_entropy"'}, "not of the form module:name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_recipe_is_named_and_nothing_is_started(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    assert message in refusal(written(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there_or_no_recipe_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.toml")
    (tmp_path / "recipe.toml").write_text("model = [")
    assert "is not TOML" in refusal(tmp_path / "recipe.toml")
