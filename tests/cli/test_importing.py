"""`esper import` on the command line: what it says, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.cli.test_main import esper


def test_without_confinement_it_says_so_and_names_what_it_wrote(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "epoch": 3}, tmp_path / "net.pt")
    outcome = esper("import", str(tmp_path / "net.pt"), "-o", str(tmp_path / "out"), "--unconfined", "--json")
    assert outcome.returncode == 0, outcome.stderr
    facts = json.loads(outcome.stdout)
    assert facts["how"].startswith("Read without confinement, as asked")
    assert load_file(facts["files"][0])["a"].tolist() == [1, 1]
    assert json.loads(Path(facts["files"][1]).read_text())["content"]["epoch"] == 3


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    outcome = esper("import", str(tmp_path / "net.pt"), "-o", str(tmp_path))
    assert outcome.returncode == 2
    assert "is there already. Nothing was read" in " ".join(outcome.stderr.split())
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_system_is_told_without_its_number(tmp_path: Path) -> None:
    outcome = esper("import", str(tmp_path / "net.pt"), "-o", str(tmp_path / ("a" * 300)))
    assert outcome.returncode == 2
    assert outcome.stderr.endswith("File name too long.\n")
    assert "Errno" not in outcome.stderr
