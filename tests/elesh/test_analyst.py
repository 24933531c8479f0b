"""The coordinator's eyes on a real checkpoint: in this process, in a worker, and when something is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.anatomy import Kind
from esper.arrays import IntArray
from esper.batches import HeldOut
from esper.elesh.analysis import ablate, confidence
from esper.elesh.analyst import OfflineAnalyst
from esper.elesh.errands import Errands
from esper.elesh.evidence import Tier
from esper.elesh.learned import learned
from esper.elesh.sampling import Part
from esper.elesh.settings import AnalysisSettings
from esper.errors import AnalysisError, AnalysisTimeout
from esper.leyline import encode
from esper.urabrask import Decision
from esper.urabrask import Settings as ValidationSettings
from esper.workers import Ending, InlinePool, LocalPool, TaskOutcome, WorkerHealth, WorkerPool, WorkerTask
from tests.checkpoint.runs import flip
from tests.elesh.cases import Saved, examples, saved

SETTINGS = AnalysisSettings(units_per_task=4, min_optimizer_steps=1)
FINALISTS: IntArray = np.arange(0, 48, 4)


def analyst(made: Saved, pool: WorkerPool, clock: Callable[[], float] | None = None) -> OfflineAnalyst:
    return OfflineAnalyst(
        errands=Errands(pool, SETTINGS.memory_bytes, clock or count(0.0, 1e-6).__next__),
        case=made.case,
        anatomy=made.anatomy,
        keep=np.ones(made.anatomy.num_units, np.bool_),
        allowed=np.ones(made.anatomy.num_units, np.bool_),
        weights={"taylor": 0.5, "magnitude": 0.5},
        settings=SETTINGS,
        validation=ValidationSettings(),
        floors=np.full(len(made.anatomy.groups), 2, np.int64),
        deadline_seconds=600.0,
    )


@dataclass
class Handle:
    """A task that ended so, or does not end unless it is canceled."""

    ended: TaskOutcome | None

    def wait(self, timeout_seconds: float | None = None) -> bool:
        return self.ended is not None

    def outcome(self) -> TaskOutcome:
        assert self.ended is not None, "would wait for ever"
        return self.ended

    def cancel(self) -> None:
        self.ended = self.ended or TaskOutcome(Ending.CANCELED, message="canceled")


@dataclass
class LossyPool:
    """Runs tasks in this process, except that those of some numbers are lost or hang."""

    lost: tuple[int, ...] = ()
    hanging: tuple[int, ...] = ()
    submitted: list[WorkerTask] = field(default_factory=list)
    num_workers: int = 1

    def health(self) -> tuple[WorkerHealth, ...]:
        return ()

    def submit(self, task: WorkerTask) -> Handle:
        number = len(self.submitted)
        self.submitted.append(task)
        if number in self.lost:
            return Handle(TaskOutcome(Ending.LOST, message="its process died"))
        if number in self.hanging:
            return Handle(None)
        return Handle(InlinePool().submit(task).outcome())

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Saved]:
    made = saved(tmp_path)
    yield made
    made.store.close()


def test_evidence_is_the_same_in_this_process_and_in_a_worker(made: Saved, worker: LocalPool) -> None:
    here = analyst(made, InlinePool())
    there = analyst(made, worker)
    keep = here.keep.copy()
    keep[:8] = False
    one, other = here.analyze(FINALISTS, 600.0), there.analyze(FINALISTS, 600.0)
    verdicts = [here.validate(keep, 600.0), there.validate(keep, 600.0)]
    assert encode(one) == encode(other)
    assert one.tier is Tier.ABLATION
    assert not one.is_partial
    assert one.anatomy_digest == made.anatomy.digest
    assert np.flatnonzero(np.isfinite(one.loss_increase)).tolist() == FINALISTS.tolist()
    assert (one.samples[FINALISTS] == 64).all()
    assert verdicts[0].decision == verdicts[1].decision
    assert verdicts[0].retention == verdicts[1].retention


def with_noise(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples whose targets nobody can know."""
    x, y = examples(count, seed)
    return x, y[torch.randperm(count, generator=torch.Generator().manual_seed(seed))]


@pytest.fixture
def unlearned(tmp_path: Path) -> Iterator[Saved]:
    parts = (tuple(with_noise(128, 100 + n) for n in range(4)), tuple(with_noise(40, n) for n in range(3)))
    made = saved(tmp_path / "unlearned", steps=0, held_out=HeldOut(*parts))
    yield made
    made.store.close()


def test_it_is_too_early_where_targets_of_others_would_do(made: Saved, unlearned: Saved) -> None:
    assert analyst(made, InlinePool()).too_early(0.05, 60.0) == ""
    why, found = analyst(unlearned, InlinePool()).too_early(0.05, 60.0), learned(unlearned.case)
    assert found is not None
    assert f"mean loss of {found.loss:.4g} would rise by {found.rise:.2g}, which is less than 5%" in why


@pytest.mark.parametrize("pool", [LossyPool(lost=(0,)), LossyPool(hanging=(0,))], ids=["lost", "hanging"])
def test_without_an_answer_it_is_not_too_early(unlearned: Saved, pool: LossyPool) -> None:
    assert analyst(unlearned, pool).too_early(0.05, 0.0) == ""


def test_units_that_cannot_be_cut_are_unmeasured(made: Saved) -> None:
    asked = analyst(made, InlinePool())
    asked = replace(asked, allowed=np.arange(made.anatomy.num_units) % 2 == 0)
    ranks = asked.screen()
    assert np.isnan(ranks[1::2]).all()
    assert np.isfinite(ranks[::2]).all()


def test_heads_are_sure_among_heads_and_channels_among_channels(made: Saved) -> None:
    first, *others = made.anatomy.groups
    with_heads = replace(made.anatomy, groups=(replace(first, kind=Kind.HEAD), *others))
    asked = replace(analyst(made, InlinePool()), anatomy=with_heads)
    found = asked.analyze(FINALISTS, 60.0).confidence[FINALISTS]
    rises = ablate(made.case, FINALISTS.tolist()).rises
    is_head = with_heads.group_of[FINALISTS] == 0
    assert 0 < is_head.sum() < FINALISTS.size
    assert np.array_equal(found[is_head], confidence(rises[is_head]))
    assert np.array_equal(found[~is_head], confidence(rises[~is_head]))
    assert not np.array_equal(found, confidence(rises))


MANY = HeldOut(
    tuple(examples(16, 100 + n) for n in range(16)), tuple(examples(40, 200 + n) for n in range(3))
)


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Saved]:
    """A checkpoint with sixteen calibration batches, whose twin may be looked at."""
    made = saved(tmp_path, held_out=MANY)
    yield replace(made, case=replace(made.case, twin_samples=256, twin_flops=1e12))
    made.store.close()


def test_a_quarter_of_the_batches_and_predictions_say_what_all_batches_would(long: Saved) -> None:
    pool = LossyPool()
    units: IntArray = np.arange(48)
    evidence = analyst(long, pool).analyze(units, 60.0)
    every = [ablate(long.case, range(48), part) for part in (Part.FIRST, Part.OTHERS)]
    whole = np.concatenate([part.rises for part in every], axis=1)
    assert sorted(np.concatenate([part.batches for part in every]).tolist()) == list(range(16))
    assert set(evidence.samples.tolist()) == {64, 256}  # and all of them where it is close
    few = np.abs(every[0].rises.mean(1) - whole.mean(1))
    ours = np.abs(evidence.loss_increase - whole.mean(1))
    is_partial, may_go = evidence.samples == 64, whole.mean(1) < np.quantile(whole.mean(1), 0.6)
    assert ours[is_partial & may_go].mean() < 0.75 * few[is_partial & may_go].mean()
    np.testing.assert_allclose(ours[~is_partial], 0.0, atol=1e-6)


def test_a_lost_task_of_the_second_round_leaves_what_the_first_has_told(long: Saved) -> None:
    plain = LossyPool()
    analyst(long, plain).analyze(np.arange(48), 60.0)
    parts = [task.arguments.get("part") for task in plain.submitted]
    first_of_second = parts.index(Part.OTHERS)
    part = analyst(long, LossyPool(lost=(first_of_second,))).analyze(np.arange(48), 60.0)
    assert np.isfinite(part.loss_increase).all()
    assert part.is_partial
    assert "near the line are less sure: its process died" in part.notes[0]


def test_the_screen_runs_once_per_checkpoint(made: Saved) -> None:
    pool = LossyPool()
    asked = analyst(made, pool)
    first = asked.screen()
    first[:] = 7.0
    assert (asked.screen() <= 1.0).all()
    asked.analyze(FINALISTS, 60.0)
    assert [task.function_name.rpartition(":")[2] for task in pool.submitted] == ["screen", *["ablate"] * 3]


def test_a_lost_task_leaves_its_finalists_unmeasured_and_the_rest_intact(made: Saved) -> None:
    whole = analyst(made, LossyPool()).analyze(FINALISTS, 60.0)
    part = analyst(made, LossyPool(lost=(1,))).analyze(FINALISTS, 60.0)
    gone, left = FINALISTS[4:8], np.delete(FINALISTS, slice(4, 8))
    assert np.isnan(part.loss_increase[gone]).all()
    assert np.isnan(part.confidence[gone]).all()
    assert (part.samples[gone] == 0).all()
    assert np.array_equal(part.loss_increase[left], whole.loss_increase[left])
    assert part.is_partial
    assert part.notes == ("4 finalists stay unmeasured: its process died",)


def test_a_task_that_hangs_is_stopped_at_the_deadline_and_the_rest_counts(made: Saved) -> None:
    part = analyst(made, LossyPool(hanging=(2,))).analyze(FINALISTS, 60.0)
    assert np.flatnonzero(np.isfinite(part.loss_increase)).tolist() == FINALISTS[:8].tolist()
    assert part.notes == ("4 finalists stay unmeasured: It was stopped at its deadline.",)


def test_a_screen_that_hangs_is_a_timeout(made: Saved) -> None:
    with pytest.raises(AnalysisTimeout, match="The screen task gave no result: It was stopped"):
        analyst(made, LossyPool(hanging=(0,))).screen()


def test_when_every_task_is_lost_there_is_no_evidence(made: Saved) -> None:
    with pytest.raises(AnalysisError, match=r"Not one of 12 finalists was measured.*its process died"):
        analyst(made, LossyPool(lost=(0, 1, 2))).analyze(FINALISTS, 60.0)


def test_when_every_task_is_late_so_is_the_analysis(made: Saved) -> None:
    with pytest.raises(AnalysisTimeout, match="None of 12 finalists was measured in time"):
        analyst(made, LossyPool(hanging=(0, 1, 2))).analyze(FINALISTS, 60.0)


def test_a_corrupt_checkpoint_is_an_error_and_never_evidence(made: Saved) -> None:
    flip(made.case.model.path, made.case.model.size - 3)
    asked = analyst(made, InlinePool())
    keep = asked.keep.copy()
    keep[0] = False
    with pytest.raises(AnalysisError, match="BLAKE3 digest differs"):
        asked.screen()
    with pytest.raises(AnalysisError, match="BLAKE3 digest differs"):
        asked.analyze(FINALISTS, 60.0)
    with pytest.raises(AnalysisError, match="BLAKE3 digest differs"):
        asked.validate(keep, 60.0)


def test_removing_what_matters_is_a_no(made: Saved) -> None:
    asked = analyst(made, InlinePool())
    keep = asked.keep.copy()
    keep[2:24] = False
    verdict = asked.validate(keep, 60.0)
    assert verdict.decision is Decision.NO_GO
    assert torch.isfinite(torch.tensor(verdict.duration_seconds))
