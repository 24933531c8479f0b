"""The first look at a checkpoint: what it needs, what it finds, and that files need not fit into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim import SGD

from esper.elesh.case import Case
from esper.elesh.screening import screen
from tests.elesh.cases import saved

WEIGHTS = {"taylor": 0.5, "magnitude": 0.5}


def ranked(case: Case, weights: dict[str, float], min_optimizer_steps: int) -> list[float]:
    ranks: list[float] = screen(case, weights, min_optimizer_steps).ranks.tolist()
    return ranks


def test_without_evidence_nothing_is_ranked(tmp_path: Path) -> None:
    made = saved(tmp_path / "few", steps=5)
    assert np.isnan(ranked(made.case, WEIGHTS, 6)).all()
    assert np.isfinite(ranked(made.case, WEIGHTS, 5)).all()
    assert np.isnan(ranked(replace(made.case, optimizer=None), WEIGHTS, 1)).all()
    unstarted = saved(tmp_path / "none", steps=0)
    assert np.isnan(ranked(unstarted.case, WEIGHTS, 1)).all()


def test_sgd_is_ranked_by_what_was_tracked(tmp_path: Path) -> None:
    made = saved(tmp_path, optimizer=lambda m: SGD(m.parameters(), 0.1, momentum=0.9), steps=5)
    assert np.isnan(ranked(made.case, WEIGHTS, 1)).all()
    tracked = [float(n) for n in range(made.anatomy.num_units)]
    tracked[7] = float("nan")
    only_taylor = {"taylor": 1.0, "magnitude": 0.0}
    ranks = ranked(replace(made.case, tracked=tuple(tracked)), only_taylor, 1)
    assert np.isnan(ranks[7])
    left = np.delete(np.asarray(ranks), 7)
    assert (np.diff(left) > 0).all()
    assert (left[0], left[-1]) == (0.0, 1.0)


def test_the_screen_finds_units_that_do_not_matter(tmp_path: Path) -> None:
    def with_idle_units() -> nn.Module:
        torch.manual_seed(0)
        first = nn.Linear(8, 24)
        with torch.no_grad():
            first.weight[:6] = 0.0
            first.bias[:6] = -1.0
        return nn.Sequential(first, nn.ReLU(), nn.Linear(24, 4))

    made = saved(tmp_path, build=with_idle_units, optimizer=lambda m: torch.optim.Adam(m.parameters(), 0.01))
    ranks = np.asarray(ranked(made.case, WEIGHTS, 1))
    assert set(np.argsort(ranks)[:6].tolist()) == set(range(6))


def test_what_the_twin_shows_joins_the_rank_where_there_is_time_to_look(tmp_path: Path) -> None:
    made = saved(tmp_path)
    weights = {"taylor": 0.0, "magnitude": 0.0, "twin": 1.0}
    looked = ranked(replace(made.case, twin_samples=16, twin_flops=1e9), weights, 1)
    assert np.isfinite(looked).all()
    assert looked != ranked(replace(made.case, twin_samples=16, twin_flops=1e9), WEIGHTS, 1)
    short = replace(made.case, twin_samples=16, twin_flops=1.0)
    assert np.isnan(ranked(short, weights, 1)).all()
    assert ranked(short, WEIGHTS, 1) == ranked(made.case, WEIGHTS, 1)


def test_what_training_says_of_the_loss_counts_only_where_the_twin_does_not_say_it(tmp_path: Path) -> None:
    made = saved(tmp_path, optimizer=lambda m: SGD(m.parameters(), 0.1), steps=5)
    rising = tuple(float(n) for n in range(made.anatomy.num_units))
    short = replace(made.case, tracked=rising, twin_samples=16, twin_flops=1.0)
    looked = replace(short, twin_flops=1e9)
    both, alone = {"taylor": 0.9, "twin": 0.1}, {"taylor": 0.0, "twin": 0.1}
    assert ranked(looked, both, 1) == ranked(looked, alone, 1)
    assert ranked(looked, {**both, "twin": 0.0}, 1) == ranked(short, both, 1)
    assert ranked(looked, both, 1) != ranked(short, both, 1)


def test_the_look_predicts_every_batch_that_it_has_seen_as_a_whole(tmp_path: Path) -> None:
    made = saved(tmp_path)
    looked = screen(replace(made.case, twin_samples=40, twin_flops=1e9), WEIGHTS, 1).rises
    assert looked.shape == (made.anatomy.num_units, 2)  # two batches of 16, and a half
    longer = screen(replace(made.case, twin_samples=64, twin_flops=1e9), WEIGHTS, 1).rises
    assert longer.shape == (made.anatomy.num_units, 4)
    np.testing.assert_allclose(longer[:, :2], looked, atol=1e-6)
    assert (longer.std(axis=1) > 0).any()
    assert screen(made.case, WEIGHTS, 1).rises.shape == (made.anatomy.num_units, 0)
