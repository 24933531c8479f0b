"""The plan of the house stays simple: how many others a file or a class works with."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "esper"
MAX_PARTS, MAX_COLLABORATORS = 12, 20
VALUES = ("esper.errors", "esper.arrays")
"""What everybody names and nobody works with."""


def ours(tree: ast.AST) -> dict[str, str]:
    """What a file imports from the package, and from which module; values and constants are left out."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: node.module or ""
        for node in imports
        for alias in node.names
        if f"{node.module}.".startswith("esper.") and node.module not in VALUES and not alias.name.isupper()
    }


def collaborators(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Every class of a file, with what it names that another file of the package defines."""
    imported = ours(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            yield node.name, names & imported.keys()


def test_attaching_works_with_few_parts() -> None:
    modules = ours(ast.parse((SOURCE / "session" / "attach.py").read_text())).values()
    parts = {module.split(".")[1] for module in modules} - {"session"}
    assert len(parts) <= MAX_PARTS, sorted(parts)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_class_works_with_too_many_others(path: Path) -> None:
    for name, others in collaborators(ast.parse(path.read_text())):
        assert len(others) <= MAX_COLLABORATORS, f"{name} works with {sorted(others)}"


def test_what_a_class_names_is_counted_once_and_what_it_leaves_alone_is_not() -> None:
    source = """
from esper.cost import Origin, origin_of
from esper.anatomy import Anatomy
from torch import nn
class Room:
    def enter(self, origin: Origin) -> nn.Module:
        from esper.report import Mark
        return Mark(Origin)
"""
    assert list(collaborators(ast.parse(source))) == [("Room", {"Origin", "Mark"})]
