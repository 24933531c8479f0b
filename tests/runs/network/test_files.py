"""What a network without a form says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import CheckpointMissing
from esper.runs.network import form_from


def test_a_network_without_a_form_says_why_if_that_was_written_down() -> None:
    with pytest.raises(CheckpointMissing, match=r"Its heads are counted in C\. Load it without model="):
        form_from(None, Path("out"), "Its heads are counted in C.")
    with pytest.raises(CheckpointMissing, match="cut as a program, or what was done"):
        form_from(None, Path("out"))
