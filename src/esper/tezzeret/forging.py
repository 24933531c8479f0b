"""The task of a worker: makes one kernel, asks what is asked about it, and leaves its weights in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3
import torch
from torch import Tensor

from esper.checkpoint import drawn_apart, file_pieces
from esper.tezzeret.making import held, made, outline
from esper.tezzeret.order import KernelOrder, found
from esper.urabrask import Check, KernelLimits, KernelMeasures, check_kernel, measured_kernel, size_of

_SAMPLES = 32
"""Of the activations, that passes are measured with."""


@dataclass(frozen=True)
class Forged:
    """What a worker has made.

    Attributes:
        checks: every question with its answer.
        blake3: of the file; '' if the kernel did not pass, and nothing was written.
        forward_seconds: of a pass over at most 32 samples, and `backward_seconds` of its gradient.
        size_bytes: of parameters and buffers.
        make_seconds: what making, checking and writing took.
    """

    checks: tuple[Check, ...]
    blake3: str = ""
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    size_bytes: int = 0
    make_seconds: float = 0.0

    @property
    def failures(self) -> tuple[Check, ...]:
        """What it did not pass: what was measured, and where that says nothing what was not."""
        failed = tuple(check for check in self.checks if not check.passed)
        return tuple(check for check in failed if check.value is not None) or failed


def forge(order: KernelOrder, file: Path, limits: KernelLimits) -> Forged:
    """Makes the kernel, in this process, as the training process would have made it, bit for bit.

    Args:
        order: what is wanted.
        file: where its weights go; must not exist.
        limits: what it may take.

    Raises:
        ConfigError: the blueprint is not known here, or fails.
        OSError: the file cannot be written.
    """
    begun = time.perf_counter()
    maker, device = found(order.maker), torch.device(order.device)
    if (bare := outline(order, maker)) is not None and size_of(bare) > limits.size_bytes:
        return Forged(check_kernel(KernelMeasures(size_bytes=size_of(bare)), limits))
    seed, again = made(order, maker, device), made(order, maker, device)
    # What it is at birth is taken before passes change it, as those of a BatchNorm do.
    tensors = {name: tensor.cpu().clone() for name, tensor in held(seed).items()}
    with drawn_apart(order.number):
        like = torch.randn((min(order.shape[0], _SAMPLES), *order.shape[1:])).to(device)
        measured = measured_kernel(seed, again, like.to(getattr(torch, order.dtype)), time.perf_counter)
    checks = check_kernel(measured, limits)
    digest = _written(file, tensors) if all(check.passed for check in checks) else ""
    return Forged(
        checks,
        digest,
        measured.forward_seconds or 0.0,
        measured.backward_seconds or 0.0,
        measured.size_bytes or 0,
        time.perf_counter() - begun,
    )


def _written(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """The tensors as safetensors; nobody believes the file before it was committed."""
    hasher = blake3.blake3()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        for piece in file_pieces(tensors):
            hasher.update(piece)
            stream.write(piece)
    return hasher.hexdigest()
