"""Held-out batches from one file of arrays, `.safetensors` or `.npz`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

BATCH_SAMPLES = 64
_TARGETS = ("labels", "target")


def batches_in(path: Path) -> list[Any]:
    """The samples of a file in batches, as a network with a loss takes them.

    The file holds `inputs` and `targets`, or keyword inputs by their names with the target under `labels` or
    `target`; the first axis of every array counts the samples.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    arrays = _arrays(path)
    sizes = {name: value.shape[0] if value.dim() else None for name, value in arrays.items()}
    is_pair = arrays.keys() == {"inputs", "targets"}
    if (
        len(set(sizes.values())) != 1
        or None in sizes.values()
        or not (is_pair or arrays.keys() & set(_TARGETS))
    ):
        found = ", ".join(f"{name}: {list(value.shape)}" for name, value in arrays.items()) or "nothing"
        raise ConfigError(
            f"{path} holds {found}; expected the arrays inputs and targets, or keyword inputs by their names "
            "and labels, all with one row per sample."
        )
    parts = {name: value.split(BATCH_SAMPLES) for name, value in arrays.items()}
    if is_pair:
        return list(zip(parts["inputs"], parts["targets"], strict=True))
    return [dict(zip(parts, batch, strict=True)) for batch in zip(*parts.values(), strict=True)]


def _arrays(path: Path) -> dict[str, Tensor]:
    import numpy as np
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ConfigError(
            f"{path} cannot be read as arrays: {error}. Expected a .safetensors or .npz file without pickle."
        ) from error
