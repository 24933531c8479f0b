"""Power cuts: records the system calls of a run and builds every state of the disk that a cut may leave.

What POSIX promises: after a cut, bytes written since a file's last sync may be there, partly there, missing,
or zeros; changes of a directory since its last sync may be there up to any of them, in order. The rest stays.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from esper.checkpoint import PosixStorage


@dataclass
class Node:
    """A file (its bytes) or a directory (its changes in order); `durable` is how much was synced.

    A rename is two changes, new name first: a cut that leaves both names is harsher than POSIX. What is
    written over bytes that are durable is in `over` until it is synced too: from where on, and what.
    """

    is_directory: bool
    data: bytes = b""
    changes: list[tuple[str, Node | None]] = field(default_factory=list)
    durable: int = 0
    over: list[tuple[int, bytes]] = field(default_factory=list)

    def entries(self, count: int) -> dict[str, Node]:
        """What the directory holds after its first `count` changes."""
        names: dict[str, Node] = {}
        for name, node in self.changes[:count]:
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node
        return names


Choice = dict[int, int | bytes]
Tree = dict[str, "bytes | Tree"]


class RecordingStorage(PosixStorage):
    """Does everything for real under `root`, and after every call keeps the states that a cut would leave."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Node(is_directory=True)
        self.states: list[tuple[str, Tree]] = []
        """What had been acknowledged, and what is on the disk."""
        self.acknowledged = ""
        self._open: dict[int, Node] = {}

    def _node(self, path: Path) -> Node:
        node = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.entries(len(node.changes))[part]
        return node

    def _add(self, path: Path, node: Node | None) -> None:
        parent = self._node(path.parent)
        parent.changes.append((path.name, node))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._add(path, Node(is_directory=True))
        self._cut()

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        node = self._open[descriptor] = Node(is_directory=False)
        self._add(path, node)
        self._cut()
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        count = super().write(descriptor, data)
        self._open[descriptor].data += bytes(data[:count])
        self._cut()
        return count

    def open_to_overwrite(self, path: Path) -> int:
        descriptor = super().open_to_overwrite(path)
        self._open[descriptor] = self._node(path)
        return descriptor

    def write_at(self, descriptor: int, data: memoryview, position: int) -> int:
        count = super().write_at(descriptor, data, position)
        node = self._open[descriptor]
        assert node.durable == len(node.data) >= position + count, "only what was synced is written over"
        node.over.append((position, bytes(data[:count])))
        self._cut()
        return count

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        node = self._open[descriptor]
        for position, piece in node.over:
            node.data = _put(node.data, position, piece)
        node.over.clear()
        node.durable = len(node.data)
        self._cut()

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        assert source.parent == target.parent
        moved = self._node(source)
        parent = self._node(source.parent)
        parent.changes += [(target.name, moved), (source.name, None)]
        self._cut()

    def replace(self, source: Path, target: Path) -> None:
        super().replace(source, target)
        assert source.parent == target.parent
        moved = self._node(source)
        self._node(source.parent).changes += [(target.name, moved), (source.name, None)]
        self._cut()

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self._add(target, self._node(source))
        self._cut()

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        if not path.is_relative_to(self.root):
            return  # above the part of the disk that is recorded
        node = self._node(path)
        node.durable = len(node.changes)
        self._cut()

    def remove(self, path: Path) -> None:
        super().remove(path)
        self._add(path, None)
        self._cut()

    def remove_directory(self, path: Path) -> None:
        super().remove_directory(path)
        self._add(path, None)
        self._cut()

    def _cut(self) -> None:
        self.states.extend((self.acknowledged, tree) for tree in self._legal_trees())

    def durable_tree(self) -> Tree:
        """What a cut can never take."""
        return _build(self.tree, {})

    def _legal_trees(self) -> Iterator[Tree]:
        pending = [node for node in _reachable(self.tree) if node.over or node.durable < _length(node)]
        for combination in itertools.product(*(_choices(node) for node in pending)):
            yield _build(
                self.tree, {id(node): choice for node, choice in zip(pending, combination, strict=True)}
            )


def _length(node: Node) -> int:
    return len(node.changes) if node.is_directory else len(node.data)


def _reachable(node: Node) -> list[Node]:
    """Every node that some legal state shows."""
    found = {id(node): node}
    for _, child in node.changes:
        if child is not None:
            found.update((id(inner), inner) for inner in _reachable(child))
    return list(found.values())


def _choices(node: Node) -> list[int | bytes]:
    if node.is_directory:
        return list(range(node.durable, len(node.changes) + 1))
    if node.over:
        return _torn(node.data, node.over)
    safe, rest = node.data[: node.durable], node.data[node.durable :]
    lengths = sorted({0, 1, len(rest) // 4, len(rest) // 2, 3 * len(rest) // 4, len(rest) - 1, len(rest)})
    return list(
        {safe + part for n in lengths for part in (rest[:n], bytes(n), rest[:n] + bytes(len(rest) - n))}
    )


def _torn(data: bytes, over: list[tuple[int, bytes]]) -> list[int | bytes]:
    """What may be left where bytes were being written over: the old, the new, a part of it, or zeros."""
    states = {data}
    for position, piece in over:
        half = len(piece) // 2
        new = (piece, piece[:half], bytes(len(piece)), piece[:half] + bytes(len(piece) - half))
        states |= {_put(state, position, left) for state in states for left in new}
    return list(states)


def _put(data: bytes, position: int, piece: bytes) -> bytes:
    return data[:position] + piece + data[position + len(piece) :]


def _build(node: Node, choice: Choice) -> Tree:
    chosen = choice.get(id(node), node.durable)
    assert isinstance(chosen, int)
    tree: Tree = {}
    for name, child in node.entries(chosen).items():
        data = choice.get(id(child), child.data[: child.durable])
        tree[name] = _build(child, choice) if child.is_directory else data if isinstance(data, bytes) else b""
    return tree


def write_tree(tree: Tree, path: Path) -> None:
    """Puts a state onto a real disk."""
    path.mkdir(exist_ok=True, mode=0o700)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
        else:
            write_tree(content, path / name)
