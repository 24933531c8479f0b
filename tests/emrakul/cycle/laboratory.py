"""A network whose losses are known, for coordinators to decide about."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState
from esper.emrakul.cycle.decide import Cycle
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.emrakul.plan import Situation
from esper.emrakul.schedule import Allowance, Schedule
from esper.emrakul.settings import Settings
from esper.leyline import ManualClock
from esper.urabrask import Decision, Verdict
from tests.emrakul.networks import measured, resnet8

SETTINGS = Settings.model_validate({"target": {"flops": 0.5}})


@dataclass(eq=False)
class Laboratory:
    """Measures a network whose losses are known; answers with the decisions it was given, then with go."""

    anatomy: Anatomy = field(default_factory=resnet8)
    decisions: list[Decision] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)
    screen_seconds: float = 0.0
    analysis_seconds: float = 1.0
    validation_seconds: float = 1.0
    error: BaseException | None = None
    has_screen: bool = True
    settings: Settings = SETTINGS
    calls: list[str] = field(default_factory=list)
    offered: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    leeways: list[float] = field(default_factory=list)
    early: str = ""
    id: str = "the laboratory"

    def too_early(self, least: float, seconds: float) -> str:
        self.calls.append("too early")
        self.seconds.append(seconds)
        return self.early

    def screen(self) -> FloatArray:
        self.clock.advance(self.screen_seconds)
        return measured(self.anatomy).screen if self.has_screen else np.full(self.anatomy.num_units, np.nan)

    def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
        self.calls.append("analyze")
        self.seconds.append(seconds)
        self.clock.advance(self.analysis_seconds)
        if self.error is not None:
            raise self.error
        truth = measured(self.anatomy)
        asked = np.isin(np.arange(self.anatomy.num_units), finalists)
        return replace(truth, loss_increase=np.where(asked, truth.loss_increase, np.nan))

    def validate(self, keep: BoolArray, seconds: float, leeway: float = 1.0) -> Verdict:
        self.calls.append("validate")
        self.seconds.append(seconds)
        self.offered.append(int((~keep).sum()))
        self.leeways.append(leeway)
        self.clock.advance(self.validation_seconds)
        decision = self.decisions.pop(0) if self.decisions else Decision.GO
        return Verdict(decision, f"The laboratory says {decision}.")

    def cycle(self, epoch: int = 5) -> Cycle:
        return Cycle(epoch, Situation.whole(self.anatomy), "f00d", epochs=10)

    def run(self, coordinator: Coordinator, epoch: int = 5) -> CycleOutcome:
        return coordinator.run_cycle(self.cycle(epoch), self.allowance(coordinator, epoch), self)

    def decided(self, *, can_wait: bool = False, gone: int = 0) -> CycleOutcome:
        """A decision of epoch 5 about a network of which the first units are gone."""
        cycle, coordinator = self.cycle(), self.coordinator()
        keep = np.arange(self.anatomy.num_units) >= gone
        cycle = replace(cycle, situation=cycle.situation.under(keep), can_wait=can_wait)
        return coordinator.run_cycle(cycle, self.allowance(coordinator), self)

    def allowance(self, coordinator: Coordinator, epoch: int = 5) -> Allowance:
        return Schedule(self.settings, 10).allowed(epoch, coordinator.state.schedule, 0.0)

    def coordinator(self, state: CoordinatorState | None = None) -> Coordinator:
        return Coordinator(self.settings, self.clock, state)
