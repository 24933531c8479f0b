"""What may be imported where, seen from fresh interpreters."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import esper

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "esper"
TORCH_FREE = ("errors", "files", "leyline", "narset", "nissa", "oona", "report", "settings", "workers")
TORCH_WHEN_ASKED = ("web",)
"""Begins without torch; what a page shows of checkpoints loads it."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def modules_of(part: str) -> list[str]:
    """Every module of one part of the package, none if the part does not exist yet."""
    single = SOURCE / f"{part}.py"
    files = [single] if single.exists() else sorted((SOURCE / part).rglob("*.py"))
    names = [".".join(file.relative_to(SOURCE.parent).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("module", ["esper", "esper.cli.main"])
def test_importing_the_public_face_and_the_command_line_does_not_import_torch(module: str) -> None:
    outcome = run(f"import sys, {module}; print('torch' in sys.modules)")
    assert outcome.stdout.strip() == "False", outcome.stderr


def test_importing_esper_imports_none_of_its_parts() -> None:
    outcome = run("import sys, esper; print([m for m in sys.modules if m.startswith('esper.')])")
    assert outcome.stdout.strip() == "[]", outcome.stderr


@pytest.mark.parametrize("part", [part for part in (*TORCH_FREE, *TORCH_WHEN_ASKED) if modules_of(part)])
def test_messages_and_telemetry_work_where_torch_is_not_installed(part: str) -> None:
    imports = "\n".join(f"import {module}" for module in modules_of(part))
    outcome = run(f"import sys\nsys.modules['torch'] = None\n{imports}\nprint('ok')")
    assert outcome.stdout.strip() == "ok", outcome.stderr


def test_the_blocked_import_of_the_test_above_really_blocks() -> None:
    assert "ModuleNotFoundError" in run("import sys; sys.modules['torch'] = None; import torch").stderr


def test_the_torch_free_contract_lists_every_torch_free_part_that_exists() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    listed = next(c["source_modules"] for c in contracts if c["type"] == "forbidden")
    assert sorted(listed) == [f"esper.{part}" for part in TORCH_FREE if modules_of(part)]


def test_every_public_name_is_found_in_the_module_that_the_face_names() -> None:
    for name in esper.__all__:
        assert getattr(esper, name) is not None
        assert name in dir(esper)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        esper.prune  # noqa: B018 - reading the attribute is the test


def public_face_under_type_checking() -> dict[str, str]:
    """The names that a type checker sees, and the module of each."""
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_a_type_checker_sees_the_names_that_the_lazy_table_serves() -> None:
    assert public_face_under_type_checking() == esper._HOME
