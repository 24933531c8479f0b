"""Staging buffers: a copy of the training state that a background save can read while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from esper.checkpoint.content import FileContent, Staged
from esper.checkpoint.tensor_file import Layout, lay_out
from esper.heap import Own


@dataclass(frozen=True)
class _Buffer:
    layout: Layout
    memory: torch.Tensor
    views: Own
    """One view into `memory` for every slot of the layout, by its name."""


class StagingBuffers:
    """One flat buffer for each tensor file, already in the file's layout, made once and used for every save.

    Memory is pinned when a tensor is on a GPU. A file whose tensors change their shapes (after a cut) gets a
    new buffer. Costs as much memory as the state itself.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, _Buffer] = {}

    def reserve(self, files: Mapping[str, FileContent]) -> None:
        """Makes the buffers before training, so that the first save does not wait for memory."""
        for name, content in files.items():
            if isinstance(content, Mapping):
                self._buffer(name, content)

    def stage(self, files: Mapping[str, FileContent]) -> dict[str, FileContent]:
        """Copies all tensors; the result is valid until the next call. Bytes and paths pass through."""
        devices: set[torch.device] = set()
        staged: dict[str, FileContent] = {}
        for name, content in files.items():
            if not isinstance(content, Mapping):
                staged[name] = content
                continue
            buffer = self._buffer(name, content)
            sources = [content[slot.name].detach() for slot in buffer.layout.slots]
            with torch.no_grad():
                for view, source in zip(buffer.views.values(), sources, strict=True):
                    view.copy_(source, non_blocking=True)
            devices.update(source.device for source in sources if source.is_cuda)
            staged[name] = Staged((memoryview(buffer.layout.header), buffer.memory.numpy().data))
        for device in devices:
            torch.cuda.synchronize(device)
        return staged

    def _buffer(self, name: str, tensors: Mapping[str, torch.Tensor]) -> _Buffer:
        layout = lay_out(tensors)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.layout != layout:
            self._buffers.pop(name, None)  # gives the old memory back before new memory is taken
            buffer = self._buffers[name] = _make_buffer(layout, any(t.is_cuda for t in tensors.values()))
        return buffer


def _make_buffer(layout: Layout, is_pinned: bool) -> _Buffer:
    memory = torch.zeros(
        layout.data_bytes, dtype=torch.uint8, pin_memory=is_pinned
    )  # zeros: touches every page now
    views = {
        slot.name: memory[slot.start : slot.end].view(slot.dtype).view(slot.shape) for slot in layout.slots
    }
    return _Buffer(layout, memory, Own(views))
