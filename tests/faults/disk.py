"""A disk as a power cut may leave it: what was synced stays; what was not may be there, in part, or not.

What POSIX promises: after a cut, bytes written since a file's last sync may be there, partly there, missing,
or zeros; changes of a directory since its last sync may be there up to any of them, in order.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Tree = dict[str, "bytes | Tree"]
Choice = dict[int, int | bytes]
_MOST = 400
"""States of one moment: where there are more, so many of them are drawn."""


@dataclass(frozen=True)
class Write:
    """Bytes that were written at a place; `size` alone makes the file so long instead."""

    at: int
    data: bytes = b""
    size: int | None = None

    def on(self, content: bytes) -> bytes:
        if self.size is not None:
            return content[: self.size].ljust(self.size, b"\0")
        return content[: self.at].ljust(self.at, b"\0") + self.data + content[self.at + len(self.data) :]

    def torn(self, length: int) -> Write:
        """Only the beginning of it has reached the disk."""
        return Write(self.at, self.data[:length])

    def zeros(self, start: int) -> Write:
        """From `start` on there are zeros where its bytes should be."""
        return Write(self.at, self.data[:start] + bytes(len(self.data) - start))


@dataclass
class Node:
    """A file (bytes that are safe, and writes since) or a directory (its changes in order).

    A rename is two changes, new name first: a cut that leaves both names is harsher than POSIX.
    """

    is_directory: bool
    safe: bytes = b""
    pending: list[Write] = field(default_factory=list)
    changes: list[tuple[str, Node | None]] = field(default_factory=list)
    durable: int = 0
    """How many changes of the directory are synced."""

    @property
    def content(self) -> bytes:
        return _applied(self.safe, self.pending)

    @property
    def is_durable(self) -> bool:
        return self.durable == len(self.changes) and not self.pending

    def entries(self, count: int | None = None) -> dict[str, Node]:
        """What the directory holds after its first `count` changes, or after all."""
        names: dict[str, Node] = {}
        for name, node in self.changes[:count]:
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node
        return names

    def sync(self) -> None:
        self.safe, self.pending, self.durable = self.content, [], len(self.changes)

    def choices(self) -> list[int | bytes]:
        """What a cut may leave of this one alone."""
        if self.is_directory:
            return list(range(self.durable, len(self.changes) + 1))
        found: dict[bytes, None] = {self.safe: None}
        for count, write in enumerate(self.pending):
            before = _applied(self.safe, self.pending[:count])
            for length in _tears(len(write.data), is_last=count == len(self.pending) - 1):
                found[write.torn(length).on(before)] = None
                found[write.zeros(length).on(before)] = None
                found[write.zeros(0).torn(length).on(before)] = None
            found[write.on(before)] = None
            found[_applied(self.safe, self.pending[:count] + self.pending[count + 1 :])] = None
        return list(found)


class Disk:
    """What lies below a directory, changed call by call."""

    def __init__(self, before: Tree | None = None) -> None:
        self.root = _durable(before or {})

    def find(self, path: Path) -> Node | None:
        """The node of a path relative to the disk; None: there is none."""
        node = self.root
        for part in path.parts:
            inner = node.entries().get(part)
            if inner is None:
                return None
            node = inner
        return node

    def at(self, path: Path) -> Node:
        node = self.find(path)
        if node is None:
            raise FileNotFoundError(path)
        return node

    def name(self, path: Path, node: Node | None) -> None:
        """Gives a node a name, or takes the name away."""
        self.at(path.parent).changes.append((path.name, node))

    def move(self, source: Path, target: Path) -> None:
        node = self.at(source)
        self.name(target, node)
        self.name(source, None)

    def durable_tree(self) -> Tree:
        """What a cut can never take."""
        return _build(self.root, {})

    def legal_trees(self, most: int = _MOST) -> Iterator[Tree]:
        """Every state that a cut at this moment may leave, or many of them that were drawn."""
        pending = [node for node in _reachable(self.root) if not node.is_durable]
        choices = [node.choices() for node in pending]
        combinations: Iterator[tuple[int | bytes, ...]] = itertools.product(*choices)
        if math.prod(map(len, choices)) > most:
            rng = random.Random(len(pending))
            extremes = (tuple(one[0] for one in choices), tuple(one[-1] for one in choices))
            drawn = (tuple(rng.choice(one) for one in choices) for _ in range(most))
            combinations = itertools.chain(extremes, drawn)
        for combination in combinations:
            yield _build(
                self.root, {id(node): choice for node, choice in zip(pending, combination, strict=True)}
            )


def _tears(length: int, *, is_last: bool) -> set[int]:
    """How much of a write may have reached the disk; a file that is only made longer or shorter has none."""
    if not length:
        return set()
    return {0, 1, length // 4, length // 2, 3 * length // 4, length - 1} if is_last else {length // 2}


def _applied(content: bytes, writes: list[Write]) -> bytes:
    for write in writes:
        content = write.on(content)
    return content


def _durable(tree: Tree) -> Node:
    """A directory of which everything is synced."""
    found = Node(is_directory=True)
    for name, inner in tree.items():
        node = Node(is_directory=False, safe=inner) if isinstance(inner, bytes) else _durable(inner)
        found.changes.append((name, node))
    found.durable = len(found.changes)
    return found


def _reachable(node: Node) -> list[Node]:
    """Every node that some legal state shows."""
    found = {id(node): node}
    for _, child in node.changes:
        if child is not None:
            found.update((id(inner), inner) for inner in _reachable(child))
    return list(found.values())


def _build(node: Node, choice: Choice) -> Tree:
    chosen = choice.get(id(node), node.durable)
    assert isinstance(chosen, int)
    tree: Tree = {}
    for name, child in node.entries(chosen).items():
        data = choice.get(id(child), child.safe)
        tree[name] = _build(child, choice) if child.is_directory else data if isinstance(data, bytes) else b""
    return tree


def read_tree(path: Path) -> Tree:
    """What lies on a real disk; links and pipes are left out."""
    found: Tree = {}
    for one in sorted(path.iterdir()):
        if one.is_dir():
            found[one.name] = read_tree(one)
        elif one.is_file():
            found[one.name] = one.read_bytes()
    return found


def write_tree(tree: Tree, path: Path) -> None:
    """Puts a state onto a real disk, for the eyes of its owner only."""
    path.mkdir(exist_ok=True, mode=0o700)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (path / name).write_bytes(content)
            (path / name).chmod(0o600)
        else:
            write_tree(content, path / name)


def key_of(tree: Tree) -> int:
    """Tells states apart."""
    inner = ((name, one if isinstance(one, bytes) else key_of(one)) for name, one in tree.items())
    return hash(frozenset(inner))
