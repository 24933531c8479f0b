"""A training of one long epoch: every N optimizer steps it is saved, analyzed, masked and cut."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest

from esper.errors import ConfigError
from esper.session.pace import Pace
from tests.session.runs import Training

N = 6


class Stream(Training):
    """Never ends an epoch; its metric is measured with every third step unless said otherwise."""

    length: ClassVar = {"steps": 38, "every_n_steps": N}
    metric = "accuracy"

    def steps(self, count: int, every: int = 3) -> list[bool]:
        """Trains `count` steps; says for each of them whether it ended a period."""
        ended: list[bool] = []
        while len(ended) < count:
            for batch in self.batches():
                if len(ended) == count:
                    break
                self.step(*batch)
                is_measured = self.session.step % every == 0
                ended.append(self.session.end_step(**({"accuracy": self.accuracy()} if is_measured else {})))
        return ended


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A whole run, what its steps said, and its result."""
    training = Stream(tmp_path_factory.mktemp("steps") / "run")
    ended = training.steps(38)
    return training, ended, training.session.finish(latency=False)


def test_every_n_steps_end_a_period_and_the_target_is_reached(finished: Any) -> None:
    training, ended, result = finished
    assert [number + 1 for number, is_over in enumerate(ended) if is_over] == [6, 12, 18, 24, 30, 36]
    assert result.reached >= 0.4
    assert {"mask", "cut"} <= set(training.marks())


def test_the_steps_after_the_last_period_are_in_the_report(finished: Any) -> None:
    rows = finished[2].report.epochs
    assert [row.step for row in rows] == [6, 12, 18, 24, 30, 36, 38]
    assert "accuracy" not in rows[-1].metrics
    assert finished[2].report.quality_after is None
    assert "last measured in period 6" in finished[2].report.quality_source


def test_a_finished_run_that_is_finished_again_has_no_step_more(finished: Any) -> None:
    report = finished[2].report
    assert Stream(finished[2].run_dir).session.finish(latency=False).report.epochs == report.epochs


def test_nobody_is_told_of_epochs(finished: Any) -> None:
    _, _, result = finished
    page = result.report_path.read_text()
    for text in (page, str(result), *result.report.notes, *(mark.text for mark in result.report.marks)):
        assert not re.search(r"\bepochs?\b", text, re.IGNORECASE)
    assert "7 periods of 6 steps" in page


def test_a_metric_counts_for_the_period_in_which_it_was_measured(tmp_path: Path) -> None:
    training = Stream(tmp_path / "run")
    training.steps(4, every=100)
    training.session.end_step(accuracy=0.25)
    training.steps(8, every=100)
    training.session.end_step(accuracy=0.75)  # late: the period has ended with this very step
    training.steps(6, every=100)
    rows = training.session.log.epochs
    assert [row.metrics for row in rows] == [{"accuracy": 0.25}, {}, {"accuracy": 0.75}]
    assert [row.measured_step for row in rows] == [4, None, 12]
    training.session.detach()


def test_a_metric_that_is_a_function_is_measured_only_where_a_period_ends(tmp_path: Path) -> None:
    training = Stream(tmp_path / "run")
    asked: list[int] = []

    def measure() -> float:
        asked.append(training.session.step)
        return 0.5

    for _ in range(2 * N):
        training.step(*next(training.batches()))
        training.session.end_step(accuracy=measure)
    assert asked == [N, 2 * N]
    training.session.detach()


def test_without_a_metric_nothing_is_masked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    training = Stream(tmp_path / "run")
    with caplog.at_level(logging.INFO, "esper"):
        training.steps(38, every=1000)
        result = training.session.finish(latency=False)
    assert result.reached == 0
    assert "accuracy was never measured" in result.report.quality_source
    assert "A mask waits for a period in which accuracy is measured and the network is whole." in caplog.text


def test_a_run_that_is_killed_goes_on_from_its_last_period_bit_for_bit(tmp_path: Path) -> None:
    whole = Stream(tmp_path / "whole")
    whole.steps(30)
    first = Stream(tmp_path / "parts")
    first.steps(15)
    first.session.detach()
    second = Stream(tmp_path / "parts")
    assert (second.session.step, second.session.epoch) == (12, 2)
    second.steps(18)
    assert second.fingerprint() == whole.fingerprint()
    whole.session.detach()
    second.session.detach()


def test_steps_alone_say_how_long_a_run_of_epochs_is(tmp_path: Path) -> None:
    class Epochs(Training):
        length: ClassVar = {"steps": 60}

    training = Epochs(tmp_path / "run")
    training.epoch()
    assert training.session.parts.terms.epochs == 10
    training.session.detach()


def test_a_run_that_goes_on_takes_no_length_that_leaves_the_ramp_no_room(tmp_path: Path) -> None:
    class Epochs(Training):
        length: ClassVar = {"steps": 12}  # the ramp of these runs ends with epoch 5

    training = Epochs(tmp_path / "run")
    training.epoch()
    assert training.session.parts.terms.epochs is None
    training.session.parts.saving.settle()
    training.session.detach()
    again = Epochs(tmp_path / "run")
    assert again.session.epoch == 1
    assert again.session.parts.terms.epochs is None
    again.session.detach()


def test_what_counts_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both were given"):
        Pace(epochs=3, every_n_steps=10)
    wrong: dict[str, Any]
    for wrong in ({"steps": 0}, {"every_n_steps": -1}, {"every_n_steps": 2.5}):
        with pytest.raises(ConfigError, match="whole number"):
            Pace(**wrong)
    stream = Stream(tmp_path / "stream")
    with pytest.raises(ConfigError, match=r"session\.end_step"):
        stream.session.end_epoch(accuracy=0.5)
    with pytest.raises(ConfigError, match="end_step was told f1"):
        stream.session.end_step(f1=0.5)
    stream.session.detach()
    with pytest.raises(ConfigError, match="counts in periods of 6 optimizer steps, and epochs were asked"):
        Training(tmp_path / "stream")
    epochs = Training(tmp_path / "epochs")
    with pytest.raises(ConfigError, match="every_n_steps"):
        epochs.session.end_step(accuracy=0.5)
    epochs.session.detach()


def test_advice_about_epochs_is_about_steps_where_a_run_counts_those() -> None:
    text = "It had 7 epochs; say how long it is (attach(epochs=...)), before end_epoch."
    assert Pace(steps=60, every_n_steps=10).says(text) == (
        "It had 7 periods; say how long it is (attach(steps=...)), before end_step."
    )
    assert Pace(epochs=7).says(text) == text


def test_seeds_are_told_of_in_the_words_of_the_run(tmp_path: Path) -> None:
    training = Stream(tmp_path, pruning={"target": None})
    training.session.growing.try_out(width=4)
    told = str(training.session.growing)
    training.session.detach()
    assert ", period 0: " in told
    assert "epoch" not in told
