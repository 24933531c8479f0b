"""The notebook runs from its first cell to its last, and what is stored in it is of these cells."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs.pages import ROOT

STORY = ROOT / "docs" / "notebooks" / "story.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the messaging between the test and the kernel
def test_the_story_runs_and_shows_what_is_stored() -> None:
    stored = nbformat.read(STORY, as_version=4)
    again = nbformat.from_dict({**stored, "cells": [dict(cell) for cell in stored.cells]})
    NotebookClient(again, timeout=300, kernel_name="python3").execute()
    for before, after in zip(stored.cells, again.cells, strict=True):
        assert shown(before) == shown(after), before.source


def shown(cell: nbformat.NotebookNode) -> set[str]:
    """What kinds of output a cell has: words, pictures, pages; what they say differs from run to run.

    On standard error libraries warn of what a machine lacks, once in its life; errors end the run.
    """
    outputs = cell.get("outputs", ())
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    streams = {output.name for output in outputs if output.get("text", "").strip()}
    return kinds | (streams - {"stderr"})


def test_nothing_in_the_story_tells_of_the_machine_it_was_made_on() -> None:
    text = STORY.read_text()
    assert "/home/" not in text
    assert "Traceback" not in text
    cells = [cell for cell in nbformat.read(STORY, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
