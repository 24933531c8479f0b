"""Every folder of the package is entered by its door: nobody outside imports its files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
FOLDERS = ("src", "tests", "benchmarks", "examples")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PACKAGES = {".".join(path.parent.relative_to(SOURCE).parts) for path in SOURCE.rglob("__init__.py")}
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.py")}


def place_of(path: Path) -> str:
    """The package whose files `path` may open: its own, and for a test the one that it mirrors."""
    folder = path.relative_to(ROOT).parts[:-1]
    return ".".join(folder[1:] if folder[0] == "src" else ("esper", *folder[1:]))


def files_entered(place: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import in `source` that goes past a door, seen from the package `place`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            folder = name.rpartition(".")[0]
            is_file = name in MODULES and name not in PACKAGES and folder != "esper"
            if is_file and not f"{place}.".startswith(f"{folder}.") and not _is_offered(folder, name):
                yield node.lineno, name


def _is_offered(folder: str, module: str) -> bool:
    """Whether a door hands out a module as it is, as `esper.report` does with `figures`."""
    door = (SOURCE / Path(*folder.split(".")) / "__init__.py").read_text()
    return f'"{module.rpartition(".")[2]}"' in door


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_is_entered_by_its_door(path: Path) -> None:
    entered = [f"line {line}: {module}" for line, module in files_entered(place_of(path), path.read_text())]
    assert not entered, "import from the folder instead of its files: " + "; ".join(entered)


def test_a_file_of_another_part_is_found_wherever_it_is_imported() -> None:
    past = "def f():\n    from esper.anatomy.cut.live import cut"
    assert list(files_entered("esper.session", past)) == [(2, "esper.anatomy.cut.live")]
    assert list(files_entered("esper.session", "from esper.anatomy import structure"))
    assert list(files_entered("esper.session", "import esper.anatomy.cut.live"))


def test_doors_and_files_of_the_own_folder_are_open() -> None:
    for allowed in ("from esper.anatomy.cut import cut", "from esper.anatomy.structure import Anatomy"):
        assert not list(files_entered("esper.anatomy.cut", allowed))
    assert not list(files_entered("esper.session", "from esper.anatomy.cut import cut"))


def test_a_door_offers_only_what_somebody_outside_takes() -> None:
    taken = set()
    for path in FILES:
        place = place_of(path)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in PACKAGES and node.module != place:
                taken |= {(node.module, alias.name) for alias in node.names}
    for package in sorted(PACKAGES - {"esper"}):
        door = ast.parse((SOURCE / Path(*package.split(".")) / "__init__.py").read_text())
        lists = [node.value for node in door.body if isinstance(node, ast.Assign)]
        names = [name for value in lists for name in ast.literal_eval(value)]
        unused = [name for name in names if (package, name) not in taken]
        assert not unused, f"{package} offers what nobody outside takes: {', '.join(unused)}"
