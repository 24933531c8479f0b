"""Whoever forgets `finish` hears of it where the process ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import esper
from esper.session.unfinished import tell_unfinished
from tests.session.runs import Training


def told(run: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the end of the process would say of a run; other tests may have left runs of their own."""
    caplog.clear()
    tell_unfinished()
    return [text for text in caplog.messages if str(run) in text]


def test_a_run_is_told_of_until_it_is_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = tmp_path / "run"
    training = Training(run)
    (text,) = told(run, caplog)
    assert "only its beginning is saved" in text
    training.epoch()
    training.session.parts.saving.settle()
    (text,) = told(run, caplog)
    assert "saved up to the end of epoch 1," in text
    assert "session.finish()" in text
    shutil.rmtree(max((run / "checkpoints").glob("step-*")))  # as if its save had failed
    (text,) = told(run, caplog)
    assert "only its beginning is saved, though epoch 1 has ended" in text
    training.session.finish(latency=False)
    assert not told(run, caplog)


def test_a_run_that_is_let_go_of_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Training(tmp_path / "left").session.detach()
    assert not told(tmp_path / "left", caplog)


def test_a_run_that_never_began_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = torch.nn.Linear(2, 2)
    batch = (torch.randn(16, 2), torch.randn(16, 2))
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(esper.errors.ConfigError, match="Nothing can come"):  # found when all else is there
        esper.attach(
            model,
            optimizer,
            loss=torch.nn.functional.mse_loss,
            sample=batch,
            probe=[batch] * 2,
            config={"strategy": {"policy": "periodic", "slots": "nowhere"}, "analysis": {"workers": 0}},
            run_dir=tmp_path / "refused",
        )
    assert not told(tmp_path / "refused", caplog)
