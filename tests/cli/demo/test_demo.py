"""The demo's fairness: twin and run share everything but Esper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.cli.demo.demo import Recipe, accuracy, free_folder, run_demo
from esper.cli.demo.digits import Digits, Split, load_digits
from esper.errors import ConfigError


def small(seed: int) -> Recipe:
    digits = load_digits(seed)
    few = Split(digits.train.images[:130], digits.train.labels[:130])
    return Recipe(Digits(few, digits.probe, digits.test), epochs=1, seed=seed)


def trained(seed: int) -> torch.Tensor:
    recipe = small(seed)
    model, optimizer, scheduler = recipe.start()
    recipe.train(1, model, optimizer, scheduler)
    assert scheduler.last_epoch == 3
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_two_runs_of_one_recipe_are_bitwise_equal() -> None:
    assert torch.equal(trained(0), trained(0))
    assert not torch.equal(trained(0), trained(1))


def test_accuracy_counts_the_images_that_are_named_correctly() -> None:
    class Knowing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 4).float()

    images = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1, 1)
    assert accuracy(Knowing(), Split(images, torch.tensor([0, 1, 2, 0]))) == 0.75


def test_a_folder_that_holds_a_run_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        run_demo(tmp_path, epochs=4, seed=0, flops=0.5, told=lambda *_: None)


def test_every_demo_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        folder = free_folder(tmp_path)
        folder.mkdir()
        names.append(folder.name)
    assert names == ["demo", "demo-2", "demo-3"]
