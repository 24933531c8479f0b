"""What a callback is asked for: its arguments, checked before a framework has begun anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from esper.config import Config
from esper.errors import ConfigError


@dataclass(frozen=True)
class Wish:
    """The arguments of a callback.

    Attributes:
        run_dir: where checkpoints, masks and the report go.
        config: what to do, the target in it.
        metric: what decisions are made by, as the framework calls it; None: the callback chooses.
        higher_is_better: its direction; None: the callback knows, or guesses by its name.
        loss: `loss(output, target)`; None: the framework's own.
        probe: held-out batches; None: the framework's validation data.
        every_n_steps: optimizer steps of a period; None: as often as the framework evaluates.
    """

    run_dir: Path
    config: Config
    metric: str | None
    higher_is_better: bool | None
    loss: Callable[[Any, Any], Tensor] | None
    probe: Iterable[Any] | None
    every_n_steps: int | None

    @property
    def probe_samples(self) -> int:
        """How many samples of held-out data are kept at most."""
        return self.config.analysis.calibration_samples + self.config.analysis.held_out_samples


def settings(target: float | Mapping[str, float] | None, config: Config | Mapping[str, Any] | None) -> Config:
    """The settings of a callback: `config` with the target in it.

    Raises:
        ConfigError: a setting is not known, nothing is asked for, or what no callback can do.
    """
    given = Config.of(config or {})
    asked = (given if target is None else given.aimed(target)).model_dump(exclude_unset=True)
    pruning = asked.setdefault("pruning", {})
    pruning["plan"] = {"configurable": "if_possible", **pruning.get("plan", {})}
    whole = Config.of(asked)
    if whole.strategy.policy != "none":
        raise ConfigError(
            f"strategy.policy={whole.strategy.policy!r} needs a loop that takes its loss from the session, "
            "where seeds have their lessons, and a framework computes its own. Nothing was changed. Leave it "
            "out, or attach by hand (docs/growing.md)."
        )
    if not whole.pruning.is_enabled:
        raise ConfigError(
            "Nothing was asked for. Say how much shall go, EsperCallback(target=0.5, ...) for half of the "
            "FLOPs, or give config= with a target or stages."
        )
    if whole.pruning.recovery.distill:
        raise ConfigError(
            "pruning.recovery.distill needs a loop that takes its loss from the session, and a framework "
            "computes its own. Leave it out, or attach by hand (docs/session.md)."
        )
    return whole
