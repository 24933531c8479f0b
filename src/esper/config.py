"""The sum of all settings: one section per part, read from Python or TOML; an unknown key is an error."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from esper.checkpoint.settings import CheckpointSettings
from esper.config_types import Section
from esper.elesh.settings import AnalysisSettings
from esper.emrakul.settings import Settings as PruningSettings
from esper.errors import ConfigError
from esper.importance.settings import ImportanceSettings
from esper.urabrask.settings import Settings as ValidationSettings


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

    checkpoint: CheckpointSettings = CheckpointSettings()
    """How checkpoints are kept."""

    @classmethod
    def from_toml(cls, path: Path) -> Config:
        """Reads a TOML file.

        Raises:
            ConfigError: the file cannot be read, or a key or value is not known; the message names it.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text()))
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}. Name a TOML file.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}. Correct the line it names.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigError(
                f"{path}: {where}: {first['msg']}. `esper config --explain` prints every key and its meaning."
            ) from error
