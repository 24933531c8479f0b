"""docs/configuration.md has every setting as the code has it, and what other pages call a setting is one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper.cli.main import app
from tests.docs.pages import DOCUMENTS, ROOT, named

PAGE = ROOT / "docs" / "configuration.md"
BEGIN = "<!-- Every setting: made by `python -m tests.docs.test_settings`. -->\n"
ROWS = json.loads(CliRunner().invoke(app, ["config", "--explain", "--json"]).stdout)
SECTIONS = sorted({row["key"].partition(".")[0] for row in ROWS})
KEYS = {row["key"] for row in ROWS}
CALLED = re.compile(rf"`((?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+)(?: = [^`]*)?`")
OTHERS = {"telemetry.jsonl", "importance.safetensors", "growing.try_out"}
"""Files and a method that begin like a section."""


def tables() -> str:
    """One table for each section: key, type, default, meaning."""
    return BEGIN + "\n".join(_tables())


def _tables() -> Iterator[str]:
    for section, rows in groupby(ROWS, lambda row: row["key"].partition(".")[0]):
        yield f"\n### `{section}`\n\n| key | type | default | meaning |\n|---|---|---|---|"
        for row in rows:
            kind = row["type"].replace("|", "or")
            default = "unset" if row["default"] is None else _short(str(row["default"]))
            key = row["key"].partition(".")[2]
            yield f"| `{key}` | {kind} | {default} | {row['meaning']} |"


def _short(value: str) -> str:
    return "five stages" if "cumulative_fraction" in value else value


def test_the_page_has_every_setting_as_it_is() -> None:
    assert PAGE.read_text().endswith(tables() + "\n"), "run `python -m tests.docs.test_settings`"


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if CALLED.search(path.read_text())], ids=named)
def test_what_a_document_calls_a_setting_is_one(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        pytest.skip("tells of settings that are gone too")
    called = {match[1] for match in CALLED.finditer(path.read_text())} - OTHERS
    sections = {key.rpartition(".")[0] for key in KEYS} | {".".join(key.split(".")[:2]) for key in KEYS}
    assert called <= KEYS | sections, sorted(called - KEYS - sections)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(BEGIN)[0] + tables() + "\n")
