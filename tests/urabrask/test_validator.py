from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.leyline import Level, ManualClock
from esper.urabrask.quality import Measurement
from esper.urabrask.settings import Settings
from esper.urabrask.validator import level_of, validate
from esper.urabrask.verdict import Decision, Verdict
from tests.emrakul.networks import chain


@dataclass(eq=False)
class Bench:
    """Measures a network whose every removed unit costs a known share of right answers."""

    anatomy: Anatomy = field(default_factory=lambda: chain([40, 40], heads=8))
    drop_per_unit: float = 0.001
    gradient_growth: float = 1.0
    seconds: float = 1.0
    clock: ManualClock = field(default_factory=ManualClock)
    calls: list[tuple[int, int]] = field(default_factory=list)

    def measure(self, keep: BoolArray, survivors: BoolArray) -> Measurement:
        self.calls.append((int((~keep).sum()), int((~survivors).sum())))
        self.clock.advance(self.seconds)
        gone = int((~keep).sum())
        share = 0.95 - self.drop_per_unit * gone
        return Measurement(
            correctness=(np.arange(4000) < share * 4000).astype(np.float64),
            gradient_flow=1.0,
            gradient_norm=self.gradient_growth ** (gone > 0),
            peak_bytes=1000,
        )

    def keep(self, *removed: int) -> BoolArray:
        keep = np.ones(self.anatomy.num_units, np.bool_)
        keep[list(removed)] = False
        return keep

    def validate(
        self, *removed: int, settings: Settings | None = None, floor: int = 4, leeway: float = 1.0
    ) -> Verdict:
        floors = np.array([floor, floor, 2])
        return validate(
            self.anatomy,
            self.keep(),
            self.keep(*removed),
            self.measure,
            settings or Settings(),
            self.clock,
            floors=floors,
            leeway=leeway,
        )


def test_the_baseline_is_measured_first_and_both_with_the_same_survivors() -> None:
    bench = Bench()
    verdict = bench.validate(0, 1, 2)
    assert verdict.decision is Decision.GO
    assert bench.calls == [(0, 3), (3, 3)]
    assert verdict.duration_seconds == 2.0
    assert {check.name for check in verdict.checks} == {
        "mask", "only_removes", "members", "connectivity", "floors", "retention", "gradients", "memory",
    }  # fmt: skip


def test_a_baseline_that_exists_is_not_measured_again() -> None:
    bench = Bench()
    baseline = bench.measure(bench.keep(), bench.keep(0))
    bench.calls.clear()
    verdict = validate(
        bench.anatomy,
        bench.keep(),
        bench.keep(0),
        bench.measure,
        Settings(),
        bench.clock,
        floors=np.array([4, 4, 2]),
        baseline=baseline,
    )
    assert verdict.is_accepted
    assert bench.calls == [(1, 1)]


def test_a_broken_structure_is_refused_before_anything_is_measured() -> None:
    bench = Bench()
    verdict = bench.validate(*range(40))
    assert verdict.decision is Decision.NO_GO
    assert not bench.calls
    assert {check.name for check in verdict.failures} == {"connectivity", "floors"}


def test_a_mask_that_does_not_fit_is_refused_without_indexing_by_it() -> None:
    bench = Bench()
    verdict = validate(
        bench.anatomy,
        bench.keep(),
        np.ones(3, np.bool_),
        bench.measure,
        Settings(),
        bench.clock,
        floors=np.array([4, 4, 2]),
    )
    assert verdict.decision is Decision.NO_GO
    assert "expected bool of shape (88,)" in verdict.reason


def test_too_much_lost_quality_is_a_no() -> None:
    verdict = Bench(drop_per_unit=0.02).validate(0, 1)
    assert verdict.decision is Decision.NO_GO
    assert verdict.retention is not None
    assert "worse by 0.0400" in verdict.reason


def test_exploding_gradients_are_a_no_even_if_quality_holds() -> None:
    verdict = Bench(gradient_growth=11.0).validate(0)
    assert verdict.decision is Decision.NO_GO
    assert [check.name for check in verdict.failures] == ["gradients"]


def test_memory_over_its_limit_is_a_no() -> None:
    assert not Bench().validate(0, settings=Settings(memory_limit_bytes=999)).is_accepted


@pytest.mark.parametrize(("seconds", "calls"), [(61.0, 1), (31.0, 2)])
def test_a_validation_over_its_time_is_a_no(seconds: float, calls: int) -> None:
    bench = Bench(seconds=seconds)
    verdict = bench.validate(0)
    assert verdict.decision is Decision.NO_GO
    assert "the limit is 60 s" in verdict.reason
    assert len(bench.calls) == calls


def test_without_validation_only_structure_counts_and_the_plan_is_on_probation() -> None:
    bench, unmeasured = Bench(), Settings(validation="none")
    assert bench.validate(0, settings=unmeasured).decision is Decision.CONDITIONAL_GO
    assert bench.validate(*range(40), settings=unmeasured).decision is Decision.NO_GO
    assert not bench.calls


def test_the_strictest_level_that_is_touched_sets_the_limit() -> None:
    bench = Bench()
    assert level_of(bench.anatomy, bench.keep(), bench.keep(80)) is Level.HEAD
    assert level_of(bench.anatomy, bench.keep(), bench.keep(0, 80)) is Level.CHANNEL
    assert Bench(drop_per_unit=0.025).validate(0).decision is Decision.NO_GO
    assert Bench(drop_per_unit=0.023).validate(80).decision is Decision.GO


def test_what_measuring_raises_is_not_hidden() -> None:
    bench = Bench()

    def broken(keep: BoolArray, survivors: BoolArray) -> Measurement:
        raise OSError("the twin is gone")

    with pytest.raises(OSError, match="twin is gone"):
        validate(
            bench.anatomy,
            bench.keep(),
            bench.keep(0),
            broken,
            Settings(),
            bench.clock,
            floors=np.array([4, 4, 2]),
        )


def test_what_the_limits_refuse_may_cost_more_where_there_is_leeway_and_says_so() -> None:
    bench = Bench(drop_per_unit=0.003)
    units = range(10)  # 3 points, the limit is 2
    assert bench.validate(*units).decision is Decision.NO_GO
    assert bench.validate(*units, leeway=1.1).decision is Decision.NO_GO
    verdict = bench.validate(*units, leeway=1.8)
    assert verdict.decision is Decision.CONDITIONAL_GO  # whatever the interval, it is on probation
    assert verdict.retention is not None
    assert verdict.retention.limit == pytest.approx(0.036)
    assert "limit 0.0360. The usual limit is 0.0200; it gives way" in verdict.reason
    assert "healing_factor" in verdict.reason
    assert len(bench.calls) == 6  # nothing is measured twice


def test_leeway_changes_nothing_for_what_the_limits_allow() -> None:
    usual, wide = (Bench().validate(0, 1, leeway=leeway) for leeway in (1.0, 2.0))
    assert usual == wide


def test_leeway_is_about_quality_only() -> None:
    bench = Bench(gradient_growth=20.0)
    verdict = bench.validate(0, leeway=3.0)
    assert verdict.decision is Decision.NO_GO
    assert "The usual limit" not in verdict.reason
