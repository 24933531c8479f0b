"""A training run as a TOML file: which functions make network, data and loss, and how to train and prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from esper.config import Config, read_toml
from esper.settings import PositiveCount, Section
from esper.tolaria import LoopSettings


class Maker(Section):
    """A class or function with its keyword arguments: `type` names it, all other keys are passed on."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    type: str
    """`module:name`."""

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class SchedulerMaker(Maker):
    """A learning-rate scheduler; it gets the optimizer first."""

    every: Literal["step", "epoch"] = "epoch"
    """When it makes its step."""


class Recipe(Section):
    """One run. Names are `module:name`; modules lie beside the recipe or here, or are installed."""

    run_dir: Path
    """Where checkpoints and the report go, seen from where esper is called; a run that is there goes on."""

    model: str
    """A function without arguments that returns the network."""

    train: str
    """A function without arguments that returns the training batches `(input, target)`, a loader for example;
    it is gone through once in every epoch."""

    probe: str
    """The same for held-out batches: decisions rest on them, and the metric is measured on them."""

    test: str | None = None
    """The same for batches that no decision sees, measured after every epoch as well."""

    teacher: str | None = None
    """A function without arguments that returns a better network with its weights, or a
    `CheckpointedTeacher`: its answers are a share of the loss (`esper.teaching`)."""

    loss: str = "torch.nn.functional:cross_entropy"
    """`loss(output, target)`: a function, or a class that makes one."""

    metric: Literal["accuracy", "loss"] = "accuracy"
    """What decisions are made by: the share of right answers, or the mean loss."""

    epochs: PositiveCount
    """How long to train."""

    seed: int = 0
    """Of torch's random numbers, before the network is made."""

    device: str = "cpu"
    """Where to train, as torch names it."""

    optimizer: Maker = Maker(type="torch.optim:AdamW")
    """Its class with its arguments; it gets the network's parameters first."""

    scheduler: SchedulerMaker | None = None
    """A learning-rate scheduler."""

    loop: LoopSettings = LoopSettings()
    """How a step is made of batches: accumulation, clipping, precision."""

    esper: Config = Config()
    """Esper's own settings."""

    @classmethod
    def from_toml(cls, path: Path) -> Recipe:
        """Reads a recipe.

        Raises:
            ConfigError: the file cannot be read, or a key or value is not known; the message names it.
        """
        return read_toml(
            cls,
            path,
            "docs/how-to-train.md describes the keys of a recipe; those under esper are printed by "
            "`esper config --explain`.",
        )
