"""The demo of growing: all arms are trained alike, and what each has cost is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.cli.demo.digits import Digits, Split, load_digits
from esper.cli.demo.growing import run_growing_demo
from esper.errors import ConfigError
from esper.report import RunReport


def few() -> Digits:
    digits = load_digits(0)
    first, probe, test = (
        Split(part.images[:number], part.labels[:number])
        for part, number in ((digits.train, 130), (digits.probe, 100), (digits.test, 50))
    )
    return Digits(first, probe, test)


def test_every_arm_is_told_and_written_with_its_cost(tmp_path: Path) -> None:
    epochs: list[tuple[str, int]] = []
    _, said = run_growing_demo(
        tmp_path, few(), epochs=4, seed=0, told=lambda name, epoch, _: epochs.append((name, epoch))
    )
    report = RunReport.read(tmp_path / "report.json")
    pruned, grown, as_long, *others = report.arms
    # Nothing has time to grow in four epochs, so that all arms cost the same, and the same comes out.
    assert [name for name, _ in epochs] == ["grown"] * 4 + ["pruned"] * 4 + [
        arm.name for arm in report.arms[2:] for _ in arm.spent
    ]
    assert pruned.spent[:4] == grown.spent
    assert pruned.values[:4] == grown.values
    assert len(as_long.spent) == len(pruned.spent) == 8
    assert as_long.spent[-1] >= pruned.spent[-1] >= grown.spent[-1]
    trainings = [(arm.flops, len(arm.spent)) for arm in (as_long, *others)]
    assert len({*trainings}) == len(trainings)  # what comes to the same is trained once
    assert grown.spent[0] == as_long.spent[0]
    # So small a one is none that is born wider, and nobody calls it grown.
    assert [pruned.name, grown.name] == [
        f"the network in which nothing grew, {how}" for how in ("pruned", "unpruned")
    ]
    assert any(note.startswith("No seed was tried by the policy Plateau: in ") for note in report.notes)
    assert said in report.notes
    assert str(tmp_path / "pruned" / "report.html") in said
    assert "Compared" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_holds_a_run_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a run already"):
        run_growing_demo(tmp_path, few(), epochs=4, seed=0, told=lambda *_: None)
