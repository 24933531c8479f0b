"""`esper train`: runs a recipe from its beginning or from where it stopped, and finishes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import esper
from esper.batches import on_device, split_sample
from esper.cli.recipe import Recipe
from esper.errors import ConfigError
from esper.report import RunReport
from esper.runs import called, named
from esper.runs.network import is_finished
from esper.urabrask import evaluate, run_live

Told = Callable[[str, int, float], None]
"""Is told after every epoch: the name of the run, the epoch, and the metric."""


@dataclass(frozen=True, eq=False)
class _Made:
    """What a recipe's functions have made."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: Any
    teacher: nn.Module | esper.CheckpointedTeacher | None
    loss: Callable[[Any, Any], Tensor]
    train: Iterable[Any]
    probe: Iterable[Any]
    test: Iterable[Any] | None


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
    made = _made(recipe, path.parent)
    session = esper.attach(
        made.model,
        made.optimizer,
        loss=made.loss,
        sample=on_device(next(iter(made.probe)), recipe.device),
        probe=made.probe,
        metric=recipe.metric,
        higher_is_better=recipe.metric == "accuracy",
        run_dir=recipe.run_dir,
        config=recipe.esper,
        epochs=recipe.epochs,
        scheduler=made.scheduler,
        teacher=made.teacher,
        resume=True,
    )
    try:
        while session.epoch < recipe.epochs:
            _epoch(recipe, made, session)
            metrics = measured(made.model, made.loss, made.probe, recipe)
            if made.test is not None:
                tested = measured(made.model, made.loss, made.test, recipe)
                metrics |= {f"test {name}": value for name, value in tested.items()}
            session.end_epoch(**metrics)
            told(recipe.run_dir.name, session.epoch, metrics[recipe.metric])
        return session.finish().report
    except BaseException:
        session.detach()  # so that the run can be resumed at once
        raise


def _epoch(recipe: Recipe, made: _Made, session: esper.Session) -> None:
    is_every_step = recipe.scheduler is not None and recipe.scheduler.every == "step"
    made.model.train()
    for batch in (on_device(batch, recipe.device) for batch in made.train):
        args, kwargs, target = split_sample(batch, with_target=True, model=made.model)
        made.optimizer.zero_grad()
        output = made.model(*args, **kwargs)
        session.loss(output, target, kwargs or args).backward()
        made.optimizer.step()
        if is_every_step:
            made.scheduler.step()
    if made.scheduler is not None and not is_every_step:
        made.scheduler.step()


def measured(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], batches: Iterable[Any], recipe: Recipe
) -> dict[str, float]:
    """The mean loss, and the share of right answers if that is what the recipe decides by.

    Raises:
        ConfigError: right answers cannot be counted: output and target are no classification.
    """
    model.eval()
    quality = evaluate(run_live(model, loss), batches)
    if recipe.metric != "accuracy":
        return {"loss": quality.loss}
    if quality.accuracy is None:
        raise ConfigError(
            'metric = "accuracy" needs numbers of classes as targets, and scores with one axis '
            'more as outputs. Use metric = "loss".'
        )
    return {"loss": quality.loss, "accuracy": quality.accuracy}


def _made(recipe: Recipe, beside: Path) -> _Made:
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
    return _Made(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        teacher=teacher.to(recipe.device) if isinstance(teacher, nn.Module) else teacher,
        loss=_instance(loss, recipe.device),
        train=_batches(recipe.train, beside),
        probe=_batches(recipe.probe, beside),
        test=None if recipe.test is None else _batches(recipe.test, beside),
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
    if not isinstance(batches, Iterable) or iter(batches) is batches:
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
