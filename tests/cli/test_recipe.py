"""The recipe that the examples hold: all that it names is there and fits together."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from esper.cli.recipe import Recipe
from esper.runs import named

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipe" / "image.toml"


def test_what_the_example_names_makes_a_network_and_batches_for_it() -> None:
    recipe = Recipe.from_toml(EXAMPLE)
    model = named(recipe.model, EXAMPLE.parent)()
    loss = named(recipe.loss, EXAMPLE.parent)
    assert isinstance(model, nn.Module)
    assert recipe.test is not None
    for name in (recipe.train, recipe.probe, recipe.test):
        batches = named(name, EXAMPLE.parent)()
        assert isinstance(batches, DataLoader)
        images, targets = next(iter(batches))
        assert loss(model(images), targets).isfinite()
    optimizer = named(recipe.optimizer.type, EXAMPLE.parent)(model.parameters(), **recipe.optimizer.arguments)
    assert recipe.scheduler is not None
    named(recipe.scheduler.type, EXAMPLE.parent)(optimizer, **recipe.scheduler.arguments)
    assert recipe.esper.pruning.is_enabled
