"""A rank that follows: the session that a script holds there makes the same calls, and rank 0 decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.batches import beside
from esper.checkpoint import Memory
from esper.errors import RankDivergence
from esper.kasmina import LiveNetwork
from esper.nissa import FanOut
from esper.session.admission import RunRequest
from esper.session.finish import Result
from esper.session.growing_together import FollowingGrowing
from esper.session.known import result_in, row_in
from esper.session.log import RunLog
from esper.session.metrics import Metric, Metrics
from esper.session.ranks import Ranks
from esper.session.rounds import Rounds
from esper.session.session import Session
from esper.session.shared import ADJUST, BEGIN, BUFFERS, CHECK, CUT, LOAD, LOOK, MASK, TEACH, UNMASK
from esper.session.standing import COUNTED, of_session
from esper.session.state import shared_memory_of
from esper.session.teaching import Teaching
from esper.session.telemetry import Counts
from esper.session.terms import Terms


class Follower(Session):
    """The session of any rank but the first.

    It has the network, its masks, its seeds and how far training is. What a run keeps and decides is on rank
    0 only: checkpoints, analyses, gates, the audit, telemetry. A teacher it has itself.

    Args:
        asked: what the script has given.
        ranks: all of them.
        note: what this rank holds as the run begins, or goes on.

    Raises:
        EsperError: one of the ranks refuses; nothing was changed.
    """

    def __init__(self, asked: RunRequest, ranks: Ranks, note: Callable[[], Mapping[str, Any]]) -> None:
        self.started = begun = time.perf_counter()
        self.log = RunLog()
        self.log.telling = FanOut(self.log)  # rank 0 tells people
        self._asked, self._ranks = asked, ranks
        self.network: LiveNetwork
        self._terms: Terms
        self._memory: Memory
        self._counts: Counts | None = None
        self._counted: list[bytes] = []
        self._checked: Mapping[str, Any] = {}
        self._acts: dict[str, Callable[..., object]] = {
            LOOK: self._look,
            BEGIN: self._begin,
            CHECK: self._check,
            LOAD: self._load,
            TEACH: self._teach,
        }
        self._rounds = Rounds(asked.model, asked.optimizers, self._count_step)
        self._is_finished = False
        try:
            ranks.follow(note, self._acts, self._hear)
        except BaseException:
            self.detach()
            raise
        self.seconds_in_esper = time.perf_counter() - begun

    def __getattr__(self, name: str) -> NoReturn:
        where = (
            "" if name.startswith("_") else ": this rank follows rank 0, and only the session there has it"
        )
        raise AttributeError(f"{type(self).__name__} has no {name}{where}", name=name, obj=self)

    @property
    def model(self) -> nn.Module:
        return self._asked.model

    @property
    def optimizer(self) -> Optimizer:
        return self._asked.optimizer

    @property
    def metric(self) -> str:
        return self._terms.metric

    @property
    def run_dir(self) -> Path:
        return self._asked.run

    @property
    def is_due(self) -> bool:
        rows = self.log.epochs
        return self._terms.pace.is_over(self.step, rows[-1].step if rows else 0)

    @property
    def removed_fraction(self) -> float:
        return self._terms.removed_fraction(self.network)

    @property
    def growing(self) -> FollowingGrowing:
        return self._growing

    def loss(self, output: Any, target: Any, inputs: Any = None) -> Tensor:
        value = self.teaching.loss(self.network.loss(output, target), output, target, inputs)
        self.growing.teach(value, target, inputs)
        return value

    def end_epoch(self, **metrics: Metric) -> None:
        self._follow("end_epoch", metrics)
        self._period_over()

    def end_step(self, **metrics: Metric) -> bool:
        self._require_running()
        if not self.is_due:
            self._terms.pace.require_steps()
            self._metrics.report(metrics, self.step, is_over=False)
            return False
        self._follow("end_step", metrics)
        self._period_over()
        return True

    def _period_over(self) -> None:
        self._metrics.forget()
        self.teaching.end_epoch()
        self._rounds.end()

    def rollback(self, to_step: int | None = None) -> int:
        self._follow(f"rollback({to_step})")
        self._metrics.forget()
        return self.step

    def veto(self, why: str) -> None:
        self._follow(f"veto({why})")

    def close_breaker(self) -> None:
        self._follow("close_breaker")

    def finish(self, *, latency: bool = True) -> Result:
        """Follows rank 0, and returns its result with the network of this rank."""
        known = self._follow(f"finish({latency})")
        self.detach()
        return result_in(known, self.model)

    def detach(self) -> None:
        if self._is_finished:
            return
        self._is_finished = True
        self._rounds.detach()
        if "_growing" in vars(self):
            self._growing.detach()
        if "network" in vars(self):
            self.network.detach()

    def _count_step(self) -> None:
        self.log.progress.step += 1
        if self._counts is not None:
            self._counts.step()

    def _follow(self, call: str, metrics: Mapping[str, Metric] | None = None) -> Mapping[str, Any]:
        self._require_running()
        begun = time.perf_counter()

        def note() -> Mapping[str, Any]:
            if metrics is not None:
                self._metrics.report(metrics, self.step, is_over=True)
            if self._counts is not None:
                self._counted.append(self._counts.message())
            here = (self.network, self.growing, self.teaching, self._metrics)
            held = of_session(call, self.step, *here, self._asked.generators)
            return {**held, COUNTED: self._counted}

        with self.network.attended():
            known = self._ranks.follow(note, self._acts, self._hear)
        self._counted = []
        if self._counts is not None and metrics is not None:
            self._counts.pause()
            self._counts.waited(self._ranks.waited_seconds)
        self.seconds_in_esper += time.perf_counter() - begun
        return known

    def _hear(self, known: Mapping[str, Any]) -> None:
        """Takes in how far rank 0 is."""
        progress = self.log.progress
        progress.epoch, progress.step = known["epoch"], known["step"]
        row = row_in(known)
        if row is not None and (not progress.epochs or progress.epochs[-1].epoch < row.epoch):
            progress.epochs.append(row)
            self._period_over()  # also where rank 0 has failed after it

    def _look(
        self,
        sample: Any,
        *,
        layers: bool,
        free: list[tuple[int, int]],
        followers: Mapping[str, str] | None,
        is_coupled: bool,
    ) -> None:
        asked = self._asked
        self._sample = beside(asked.model, sample)
        given = (asked.model, asked.optimizer, self._sample, asked.loss, asked.companions)
        known: dict[str, Any] = {"followers": followers, "is_coupled": is_coupled}
        known |= {"layers": layers, "free": frozenset(free), "blueprints": asked.blueprints}
        self.network = LiveNetwork(*given, **known)
        network = self.network
        for optimizer in asked.optimizers:
            network.adopt(optimizer)
        self._acts |= {
            MASK: network.mask,
            UNMASK: network.unmask,
            ADJUST: network.adjust,
            BUFFERS: network.set_buffers,
            CUT: network.cut_masked,
        }

    def _teach(self) -> None:
        self.teaching.change(self._asked.teacher)

    def _begin(self, terms: Mapping[str, Any], anatomy: str) -> None:
        if self.network.anatomy.digest != anatomy:
            raise RankDivergence(
                "The network of this rank has another structure than that of rank 0. Build it alike on all."
            )
        self._terms = Terms.from_state(terms)
        self._metrics = Metrics(self._terms, self.log)
        self.log.says = self._terms.pace.says
        self.teaching = Teaching(self.network, self._terms.config.teaching, self._sample, None, self.log)
        self._counts = Counts.by(self._terms.config.telemetry, self._ranks.number)
        asked, own = self._asked, (self.network, self._terms.config.growing, self.log)
        self._growing = FollowingGrowing(self._follow, self._ranks, asked.model, asked.scaler, *own)
        self._acts |= self._growing.acts
        self._memory = shared_memory_of(asked, self._terms, self.network, self._growing, self.log)

    def _check(self, saved: Mapping[str, Any], random: Sequence[Any]) -> None:
        """Looks at a state before it is loaded; of all random numbers it takes its own, if they are there."""
        own = {"rng": random[self._ranks.number]} if self._ranks.number < len(random) else {}
        self._checked = {**saved, **own}
        self._memory.check_early(self._checked)

    def _load(self) -> None:
        checked, self._checked = self._checked, {}
        self._memory.load(checked)
