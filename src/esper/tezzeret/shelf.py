"""Where kernels lie in a run directory: committed, sealed, and taken for nothing before they verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import blake3
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from esper.checkpoint import FileContent, SealedFolder
from esper.errors import CheckpointCorrupt, ContractError
from esper.leyline.wire import VERSION, messages, parsed
from esper.tezzeret.forging import Forged
from esper.tezzeret.order import KernelOrder

_WEIGHTS, _ARTIFACT = "weights.safetensors", "artifact.pb"


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel that verified: its digest, its seal, its run, and that it is what was asked for.

    Attributes:
        order: what it is.
        tensors: parameters and buffers at birth, by name, on the CPU.
        artifact: what is known of it.
    """

    order: KernelOrder
    tensors: Mapping[str, Tensor]
    artifact: messages.KernelArtifact

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class KernelShelf:
    """The kernels of one run.

    Args:
        folder: holds them.
        max_kernels: so many stay on disk, and `max_bytes` of them.
    """

    def __init__(self, folder: SealedFolder, max_kernels: int, max_bytes: int) -> None:
        self._folder, self._max_kernels, self._max_bytes = folder, max_kernels, max_bytes
        self._is_open = False

    def place_for(self, order: KernelOrder) -> Path:
        """A name in the folder for what a worker writes; whatever has it is removed.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._is_open:
            self._folder.open()
            self._is_open = True
        path = self._folder.path / f".tmp-{order.name}.weights"
        path.unlink(missing_ok=True)
        return path

    def commit(self, order: KernelOrder, forged: Forged, weights: Path) -> None:
        """Commits what a worker has left in a file, and removes that file.

        Raises:
            OSError: nothing was committed.
        """
        artifact = messages.KernelArtifact(
            version=VERSION,
            blueprint=order.blueprint,
            program=messages.ArrayReference(file=_WEIGHTS, blake3=forged.blake3),
            status=messages.HEALTH_STATUS_HEALTHY,
            request=order.message(),
            metrics={
                "forward_seconds": forged.forward_seconds,
                "backward_seconds": forged.backward_seconds,
                "size_bytes": forged.size_bytes,
                "make_seconds": forged.make_seconds,
            },
        )
        for check in forged.checks:
            artifact.checks.add(
                name=check.name, passed=check.passed, value=check.value, limit=check.limit, text=check.text
            )
        files: dict[str, FileContent] = {
            _WEIGHTS: weights,
            _ARTIFACT: artifact.SerializeToString(deterministic=True),
        }
        try:
            self._folder.commit(order.name, files)
        finally:
            weights.unlink(missing_ok=True)
        self._folder.keep_newest(self._max_kernels, self._max_bytes)

    def load(self, order: KernelOrder) -> Kernel:
        """The kernel, with every byte verified in memory; nothing is unpickled.

        Raises:
            CheckpointMissing: it was never made, or is gone.
            CheckpointCorrupt: nobody can vouch for it, or it is not what was asked for.
        """
        sealed = self._folder.read(order.name)
        raw = sealed.file(_WEIGHTS).read_bytes()
        try:
            artifact = parsed(messages.KernelArtifact, sealed.file(_ARTIFACT).read_bytes())
            tensors = safetensors.torch.load(raw)
        except (ContractError, SafetensorError) as error:
            raise CheckpointCorrupt(f"it is no kernel: {error}") from error
        if artifact.request != order.message():
            slot, number = artifact.request.slot, artifact.request.generation
            raise CheckpointCorrupt(f"it was made for seed {number} at {slot!r} (order {order.name})")
        if artifact.program.blake3 != blake3.blake3(raw).hexdigest():
            raise CheckpointCorrupt("its weights are not those that were checked")
        if not artifact.checks or not all(check.passed for check in artifact.checks):
            raise CheckpointCorrupt("it has not passed all that is asked of a kernel")
        return Kernel(order, tensors, artifact)

    def set_aside(self, order: KernelOrder) -> None:
        """Renames what did not verify out of the way.

        Raises:
            OSError: it could not be.
        """
        self._folder.set_aside(order.name)
