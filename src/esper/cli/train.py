"""`esper train`: runs a recipe from its beginning or from where it stopped, and finishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import esper
from esper.cli.recipe import Recipe
from esper.errors import ConfigError
from esper.report import RunReport
from esper.runs import called, named
from esper.runs.network import is_finished
from esper.tolaria import Metrics, Trainer

Told = Callable[[str, int, float], None]
"""Is told after every epoch: the name of the run, the epoch, and the metric."""


def trained(recipe: Recipe, path: Path, told: Told) -> RunReport:
    """Trains what is left of a run and finishes it; a finished run is only reported.

    Args:
        recipe: what to do.
        path: of its file: modules beside it can be named.
        told: hears of every epoch.

    Raises:
        ConfigError: something that the recipe names does not exist or is not what is expected.
        CheckpointError: the run directory cannot be used.
    """
    if is_finished(recipe.run_dir):
        return RunReport.read(recipe.run_dir / "report.json")

    def tell(epoch: int, metrics: Metrics) -> None:
        told(recipe.run_dir.name, epoch, metrics[recipe.metric])

    return _trainer(recipe, path.parent).fit(tell).report


def _trainer(recipe: Recipe, beside: Path) -> Trainer:
    """The loop over what a recipe's functions make."""
    torch.manual_seed(recipe.seed)
    model = called(recipe.model, beside)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{recipe.model} returned {type(model).__name__}; expected a torch.nn.Module.")
    model = model.to(recipe.device)
    optimizer = _called(recipe.optimizer.type, beside, model.parameters(), **recipe.optimizer.arguments)
    chosen = recipe.scheduler
    scheduler = None if chosen is None else _called(chosen.type, beside, optimizer, **chosen.arguments)
    loss = named(recipe.loss, beside)
    with torch.random.fork_rng(devices=[]):  # training draws the same with a teacher and without
        teacher = None if recipe.teacher is None else called(recipe.teacher, beside)
    if not isinstance(teacher, nn.Module | esper.CheckpointedTeacher | None):
        raise ConfigError(f"{recipe.teacher} returned {type(teacher).__name__}; expected a torch.nn.Module.")
    return Trainer(
        model,
        optimizer,
        loss=_instance(loss, recipe.device),
        train=_batches(recipe.train, beside),
        probe=_batches(recipe.probe, beside),
        test=None if recipe.test is None else _batches(recipe.test, beside),
        epochs=recipe.epochs,
        run_dir=recipe.run_dir,
        metric=recipe.metric,
        scheduler=scheduler,
        scheduled="epoch" if chosen is None else chosen.every,
        loop=recipe.loop,
        config=recipe.esper,
        teacher=teacher.to(recipe.device) if isinstance(teacher, nn.Module) else teacher,
    )


def _called(name: str, beside: Path, *given: Any, **arguments: Any) -> Any:
    try:
        return named(name, beside)(*given, **arguments)
    except TypeError as error:
        raise ConfigError(
            f"{name} does not take these arguments: {error}. Correct them in the recipe."
        ) from error


def _batches(name: str, beside: Path) -> Iterable[Any]:
    batches = called(name, beside)
    if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
        raise ConfigError(
            f"{name} returned {type(batches).__name__}; expected batches that can be gone through again in "
            "every epoch: a DataLoader or a list, no generator."
        )
    if next(iter(batches), None) is None:
        raise ConfigError(f"{name} returned no batch at all; expected at least one.")
    return batches


def _instance(loss: Any, device: str) -> Callable[[Any, Any], Tensor]:
    """A loss function: itself, or an instance of the class that was named; class weights go to the device."""
    made: Callable[[Any, Any], Tensor] = loss() if isinstance(loss, type) else loss
    return made.to(device) if isinstance(made, nn.Module) else made
