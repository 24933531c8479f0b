"""What a run is about and by what rules: agreed when it begins, and stored with every checkpoint."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from esper.config import Config
from esper.cost import Origin
from esper.emrakul.plan import Situation
from esper.errors import CheckpointError, ConfigError
from esper.files import write_private
from esper.kasmina import LiveNetwork
from esper.leyline import Level, content_id, decode, encode
from esper.session.pace import Pace


@dataclass
class Terms:
    """The terms of one run.

    Attributes:
        config: what to do.
        metric: what decisions are made by.
        higher_is_better: its direction.
        epochs: how many epochs, or periods of steps, are planned; None if nobody knows.
        origin: the network before anything was removed.
        trained_by: the class of the optimizer; None in older runs, which did not keep it.
        pace: what the run counts in, as it was said.
        followers: frozen copies in the network, and what each follows; older runs knew of none.
        is_coupled: whether samples were seen to meet in the loss when the run began; not kept in older runs.
        is_metric_said: whether the script has named the metric; otherwise it is what gets measured first.
    """

    config: Config
    metric: str
    higher_is_better: bool
    epochs: int | None
    origin: Origin
    trained_by: str | None
    pace: Pace
    followers: Mapping[str, str]
    is_coupled: bool
    is_metric_said: bool = True

    def situation(self, network: LiveNetwork) -> Situation:
        """The network as it is now; later masks do not change it."""
        return Situation(network.anatomy, network.masks.keep.copy(), self.origin, network.cuttable_units())

    def removed_fraction(self, network: LiveNetwork) -> float:
        """Share of the original cost that is masked or cut."""
        return self.situation(network).removed_fraction(self.config.pruning.cost)

    def epochs_left(self, epoch: int) -> int | None:
        """Epochs that are planned after this one; None if nobody knows."""
        return None if self.epochs is None else self.epochs - epoch

    @property
    def settings_id(self) -> str:
        """Names the settings: the same ones have the same id everywhere."""
        return content_id(self.config.model_dump(mode="json"))

    def state(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump_json(),
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "epochs_planned": self.epochs,
            "origin": encode(self.origin),
            "trained_by": self.trained_by,
            "pace": encode(self.pace),
            "followers": dict(self.followers),
            "is_coupled": self.is_coupled,
            "is_metric_said": self.is_metric_said,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Terms:
        return cls(
            Config.model_validate_json(state["config"]),
            state["metric"],
            state["higher_is_better"],
            state["epochs_planned"],
            decode(Origin, state["origin"]),
            state["trained_by"],
            decode(Pace, state["pace"]) if "pace" in state else Pace(state["epochs_planned"]),
            state.get("followers", {}),
            state.get("is_coupled", False),
            state.get("is_metric_said", True),
        )

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses to go on with a run of another optimizer or metric, or to count otherwise than it does.

        Raises:
            CheckpointError: another optimizer was given; it is named.
            ConfigError: the run is decided by another metric, or counts in other periods; or whole layers
                are asked for, which are units from the beginning of a run or never: its masks count in them.
        """
        saved = self.from_state(state)
        if saved.trained_by not in (None, self.trained_by):
            raise CheckpointError(
                f"The run was trained by {saved.trained_by}, whose state the checkpoint holds; this one is "
                f"{self.trained_by}. Nothing was changed. Resume with {saved.trained_by}, built as when the "
                "run began."
            )
        decided = self.metric, self.higher_is_better
        if saved.is_metric_said and decided != (saved.metric, saved.higher_is_better):
            began, given = (
                f"metric={terms.metric!r}, higher_is_better={terms.higher_is_better}"
                for terms in (saved, self)
            )
            raise ConfigError(
                f"The run is decided by {began}, and {given} was given: the two cannot be compared. "
                "Nothing was changed. Resume with the metric that it began with, or begin another run."
            )
        ours, theirs = self.pace.every_n_steps, saved.pace.every_n_steps
        if ours != theirs:
            raise ConfigError(
                f"This run counts in {saved.pace.unit}, and {self.pace.unit} were asked for; its decisions "
                f"and records are numbered by them. Nothing was changed. Resume with every_n_steps={theirs}, "
                "or begin another run."
            )
        if Level.LAYER in self.config.pruning.levels - saved.config.pruning.levels:
            raise ConfigError(
                "This run began without whole layers among what may be removed, and its masks and cuts are "
                'written down without them. Nothing was changed. Leave "layer" out of the levels, or begin '
                "another run with it."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """What is asked for now holds, also for states of earlier terms."""


def write_run_file(run_dir: Path, network: LiveNetwork, terms: Terms) -> None:
    """Writes `run.json`: what was asked and on what it runs, for people; nothing reads it back."""
    content = {
        "model": f"{type(network.model).__module__}.{type(network.model).__qualname__}",
        "anatomy": network.anatomy.digest,
        "units": network.anatomy.num_units,
        "parameters": terms.origin.parameters,
        "flops": terms.origin.flops,
        "optimizer": terms.trained_by,
        "metric": terms.metric,
        "higher_is_better": terms.higher_is_better,
        "epochs_planned": terms.epochs if terms.pace.every_n_steps is None else None,
        "steps_planned": terms.pace.steps,
        "every_n_steps": terms.pace.every_n_steps,
        "config": terms.config.model_dump(mode="json"),
        "versions": {
            "esper": version("esper-torch"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "host": platform.platform(),
    }
    write_private(run_dir / "run.json", json.dumps(content, indent=1) + "\n")
