"""Power cuts: records the calls of a storage and builds every state of the disk that a cut may leave."""

from __future__ import annotations

from pathlib import Path

from esper.checkpoint import PosixStorage
from tests.faults.disk import Disk, Node, Tree, Write


class RecordingStorage(PosixStorage):
    """Does everything for real under `root`, and after every call keeps the states that a cut would leave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.disk = Disk()
        self.states: list[tuple[str, Tree]] = []
        """What had been acknowledged, and what is on the disk."""
        self.acknowledged = ""
        self._open: dict[int, Node] = {}

    def tell(self, words: str) -> None:
        """Words of whoever writes: what is acknowledged from now on."""
        self.acknowledged += words
        self._cut()

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.disk.name(self._below(path), Node(is_directory=True))
        self._cut()

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        node = self._open[descriptor] = Node(is_directory=False)
        self.disk.name(self._below(path), node)
        self._cut()
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        node = self._open[descriptor]
        node.pending.append(Write(len(node.content), bytes(data[:count])))
        self._cut()
        return count

    def open_to_overwrite(self, path: Path) -> int:
        descriptor = super().open_to_overwrite(path)
        self._open[descriptor] = self.disk.at(self._below(path))
        return descriptor

    def write_at(self, descriptor: int, data: memoryview, position: int) -> int:
        count = super().write_at(descriptor, data, position)
        self._open[descriptor].pending.append(Write(position, bytes(data[:count])))
        self._cut()
        return count

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        self._open[descriptor].sync()
        self._cut()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.disk.move(self._below(source), self._below(target))
        self._cut()

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        self.disk.move(self._below(source), self._below(target))
        self._cut()

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.disk.name(self._below(target), self.disk.at(self._below(source)))
        self._cut()

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        if not path.is_relative_to(self.root):
            return  # above the part of the disk that is recorded
        self.disk.at(self._below(path)).sync()
        self._cut()

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.disk.name(self._below(path), None)
        self._cut()

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self.disk.name(self._below(path), None)
        self._cut()

    def _below(self, path: Path) -> Path:
        return path.relative_to(self.root)

    def _cut(self) -> None:
        self.states.extend((self.acknowledged, tree) for tree in self.disk.legal_trees())

    def durable_tree(self) -> Tree:
        """What a cut can never take."""
        return self.disk.durable_tree()
