"""The examples for other people's loops do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.filterwarnings("ignore")


def test_the_example_for_the_trainer_saves_a_smaller_network_that_is_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = runpy.run_path(str(EXAMPLES / "trainer.py"))["main"](tmp_path, epochs=7)
    assert trainer.model.config.intermediate_size < 200
    assert trainer.evaluate()["eval_accuracy"] > 0.9
    assert f"an intermediate_size of {trainer.model.config.intermediate_size}" in capsys.readouterr().out


def test_the_example_for_lightning_prunes_what_reads_digits(tmp_path: Path) -> None:
    callback = runpy.run_path(str(EXAMPLES / "lightning_module.py"))["main"](tmp_path, epochs=7)
    assert callback.result.reached > 0.4
    assert callback.result.report.quality_after > 0.9
