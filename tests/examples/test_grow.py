"""The example of growing does what it says, on real digits."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "grow.py"


def test_the_example_grows_a_network_that_reads_digits(capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    growth = example["main"](9)
    stages = {path: slot.stage.name for path, slot in growth.slots.items()}
    assert stages.keys() == {"2", "6"}
    assert set(stages.values()) <= {"TERMINATED", "EMBARGOED"}
    told = capsys.readouterr().out
    assert told.count("G0_SANITY open") == 2
    shares = [float(line.split()[2].rstrip("%")) for line in told.splitlines() if line.endswith("% right")]
    assert len(shares) == 9
    assert shares[-1] > 88 > shares[0]
    kept = sum(len(list(slot.place.module.parameters())) for slot in growth.slots.values())
    assert len(growth.optimizer.param_groups[0]["params"]) == 10 + kept
