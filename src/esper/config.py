"""The sum of all settings: one section per part, read from Python or TOML; an unknown key is an error."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esper.checkpoint import CheckpointSettings
from esper.elesh import AnalysisSettings
from esper.emrakul import Settings as PruningSettings
from esper.errors import ConfigError
from esper.importance import ImportanceSettings
from esper.kasmina import TeachingSettings
from esper.kasmina.seeds import GrowthSettings
from esper.nissa import TelemetrySettings
from esper.settings import AnySection, Section, section_of
from esper.tamiyo import StrategySettings
from esper.tezzeret import KernelSettings
from esper.urabrask import Settings as ValidationSettings

_KEYS = "`esper config --explain` prints every key and its meaning."


class Config(Section):
    """Everything that can be set. Pruning is off until a target or the stages are asked for; safety is on."""

    pruning: PruningSettings = PruningSettings()
    """When, how much and what to prune, and when to take it back."""

    analysis: AnalysisSettings = AnalysisSettings()
    """How much is analyzed, and by how many workers."""

    validation: ValidationSettings = ValidationSettings()
    """How strict the validator is."""

    importance: ImportanceSettings = ImportanceSettings()
    """What is tracked during training."""

    growing: GrowthSettings = GrowthSettings()
    """How seeds grow that `session.grow` germinates."""

    kernels: KernelSettings = KernelSettings()
    """What making a seed may take, in a worker process, and what is kept."""

    teaching: TeachingSettings = TeachingSettings()
    """What share a teacher has that is given to `esper.attach`."""

    strategy: StrategySettings = StrategySettings()
    """When seeds are tried out by themselves, and where."""

    checkpoint: CheckpointSettings = CheckpointSettings()
    """How checkpoints are kept."""

    telemetry: TelemetrySettings = TelemetrySettings()
    """What files a run writes while it trains, for pages, pandas and TensorBoard."""

    @classmethod
    def of(cls, given: Config | Mapping[str, Any]) -> Config:
        """The settings, or those that a mapping of sections names.

        Raises:
            ConfigError: a key or value is not known, or it is no mapping; the message names it.
        """
        if isinstance(given, str | Path):
            raise ConfigError(
                f"config={str(given)!r} is no mapping of sections. Read a file first: "
                f"config=esper.Config.from_toml({str(given)!r}). Nothing was changed."
            )
        return section_of(cls, given, "config", _KEYS)

    def aimed(self, target: float | Mapping[str, float]) -> Config:
        """The same settings with a target: a share of the FLOPs, or another cost by name.

        Raises:
            ConfigError: it is no target, or these settings name another one.
        """
        asked = self.model_dump(exclude_unset=True)
        asked["pruning"] = {**asked.get("pruning", {}), "target": target}
        aimed = Config.of(asked)
        if self.pruning.target not in (None, aimed.pruning.target):
            raise ConfigError(
                f"target={target!r} is another one than pruning.target of config. Nothing was changed. "
                "Say it in one place."
            )
        return aimed

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Reads a TOML file.

        Raises:
            ConfigError: the file cannot be read, or a key or value is not known; the message names it.
        """
        return read_toml(cls, Path(path), _KEYS)


def read_toml(kind: type[AnySection], path: Path, keys: str) -> AnySection:
    """Reads a section and all that is in it from a TOML file.

    Args:
        kind: the section's class.
        path: of the file.
        keys: a sentence that says where its keys are told.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not known; the message names it.
    """
    try:
        return section_of(kind, tomllib.loads(path.read_text()), str(path), keys)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}. Name a {kind.__name__.lower()} in TOML."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}. Correct the line it names.") from error
