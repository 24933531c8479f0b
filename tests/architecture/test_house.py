"""The house rules that no other tool checks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PYTHON_FILES = SOURCES + sorted((ROOT / "tests").rglob("*.py"))
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md"))
DOORS = [path for path in SOURCES if path.name == "__init__.py" and path.parent.name != "esper"]
MAX_LINES = 400


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=named)
def test_a_file_holds_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", DOORS, ids=named)
def test_a_door_holds_a_docstring_imports_and_names(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_docstring or is_names or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{named(path)} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_tests_that_documents_name_exist(path: Path) -> None:
    for folder, name in re.findall(r"((?:[a-z_]+/)+)(test_[\w*]+\.py)", path.read_text()):
        where = ROOT / "tests" / folder.removeprefix("tests/")
        assert list(where.glob(name)), f"{named(path)} names {folder}{name}"


def test_ci_runs_the_command_that_a_developer_types() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test"
