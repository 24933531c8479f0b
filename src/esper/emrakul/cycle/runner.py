"""Pruning cycles beside training: each analyzes one checkpoint and commits an accepted mask beside it."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any

import torch

from esper.anatomy import Anatomy
from esper.checkpoint import CheckpointRef, CheckpointStore
from esper.emrakul.cycle.commit import CycleEnd, PendingMask, commit_mask
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState
from esper.emrakul.cycle.decide import Analyst, Cycle
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.outcome import CycleOutcome
from esper.emrakul.cycle.records import Known, commit_record
from esper.emrakul.plan import Situation
from esper.emrakul.schedule import Allowance, Strategy
from esper.errors import CheckpointError
from esper.leyline import decode, encode
from esper.nissa import Sink, acts

_SEVERAL = 2
"""With so many steps one is left to do better by what the first has taught."""


class CycleRunner:
    """Runs one cycle at a time in a thread that mostly waits for workers."""

    def __init__(
        self,
        coordinator: Coordinator,
        strategy: Strategy,
        store: CheckpointStore,
        sink: Sink,
        settings_id: str,
    ) -> None:
        """Takes up the work; `sink` hears every decision before it takes effect, made by which settings."""
        self.coordinator = coordinator
        self.strategy = strategy
        """How much may go, and when; another may take its place between two cycles."""
        self._store = store
        self._sink = sink
        self._settings_id = settings_id
        self._thread = thread_beside_training("esper-cycle")
        self._in_flight: Future[CycleEnd] | None = None
        self._epoch = 0
        self._dropped = threading.Event()
        self._is_first = True
        """Whether a process before this one may have decided what is asked."""

    def start(
        self,
        durable: Callable[[], CheckpointRef],
        epoch: int,
        situation: Situation,
        analyst: Callable[[CheckpointRef], Analyst],
        epochs: int | None = None,
        affordable: float = math.inf,
    ) -> None:
        """Starts the cycle of one checkpoint.

        Args:
            durable: waits until the checkpoint is durable and returns it.
            epoch: number of epochs that have ended.
            situation: the network of the checkpoint.
            analyst: opens the checkpoint for analysis.
            epochs: planned number of epochs.
            affordable: how many more cycles the budget of the run pays for.
        """
        coordinator, dropped = self.coordinator, threading.Event()

        def run() -> CycleEnd:
            try:
                checkpoint = durable()
                with self._store.held(checkpoint):  # however many are saved meanwhile
                    can_wait = self._can_wait(epoch)
                    cycle = Cycle(epoch, situation, checkpoint.digest, epochs, can_wait)
                    allowance = _allowance(self.strategy, coordinator, epoch, situation, affordable)
                    history = coordinator.state.history
                    known = Known(self._store, checkpoint, history, in_audit=self._is_first)
                    outcome = coordinator.run_cycle(cycle, allowance, analyst(checkpoint), known.recall)
                    end = _ended(outcome, checkpoint, coordinator)
                    if dropped.is_set():
                        return end
                    is_new = not known.is_stored(outcome.key)
                    if end.is_due and not known.is_told(outcome.key):
                        self._sink.emit(self._decided(end, outcome))
                    if is_new and end.mask is not None:
                        commit_mask(self._store, checkpoint, situation.anatomy, end)
                    self._is_first = False
                    return self._recorded(end, checkpoint, situation.anatomy, outcome, is_new=is_new)
            except CheckpointError as error:  # nothing durable to decide from or beside: no pruning
                return CycleEnd(epoch, str(error), coordinator.state)
            except Exception as error:  # noqa: BLE001 - around `run_cycle`, for the same reason as inside it
                return CycleEnd(epoch, f"{type(error).__name__}: {error}", coordinator.state)

        self._dropped, self._epoch = dropped, epoch
        self._in_flight = self._thread.submit(run)

    def obstacle(self, epoch: int, situation: Situation, affordable: float) -> str:
        """Why `start` would decide nothing; '' if it may. Quick: training waits for the answer."""
        coordinator = self.coordinator
        return coordinator.obstacle(
            epoch, _allowance(self.strategy, coordinator, epoch, situation, affordable)
        )

    def _recorded(
        self,
        end: CycleEnd,
        checkpoint: CheckpointRef,
        anatomy: Anatomy,
        outcome: CycleOutcome,
        *,
        is_new: bool,
    ) -> CycleEnd:
        """The end after its record was stored; what keeps it from being stored is told with it."""
        try:
            if is_new and end.mask is None and outcome.is_conclusive:
                commit_record(self._store, checkpoint, anatomy, outcome, end.state)
        except CheckpointError as error:
            return replace(end, reason=f"{end.reason} The record of it was not stored: {error}")
        return end

    def _decided(self, end: CycleEnd, outcome: CycleOutcome) -> acts.Decided:
        return acts.Decided(
            outcome.key.epoch,
            status=outcome.status.value,
            reason=outcome.reason,
            settings_id=self._settings_id,
            record=encode(CycleRecord.of(outcome)),
            outcome=encode(outcome),
            memory=encode(replace(end.state, history=())),
        )

    def steps_left(self, epoch: int) -> int:
        """How many steps still fit, with the one decided on after `epoch`."""
        return self.strategy.steps_left(epoch, self.coordinator.state.schedule)

    def _can_wait(self, epoch: int) -> bool:
        """Whether several steps still fit after `epoch`, if none is begun with it."""
        return self.steps_left(epoch + 1) >= _SEVERAL

    def is_last(self, epoch: int) -> bool:
        """Whether nothing is decided about any later epoch."""
        return self.strategy.is_last(epoch)

    @property
    def is_running(self) -> bool:
        return self._in_flight is not None

    @property
    def epoch_in_flight(self) -> int | None:
        """The epoch that the cycle in flight is about; None if there is none."""
        return self._epoch if self.is_running else None

    def collect(self, timeout_seconds: float) -> CycleEnd | None:
        """How the cycle in flight ended, or None if there is none or it needs longer than that."""
        ended = self._in_flight
        if ended is None or not wait([ended], timeout_seconds).done:
            return None
        self._in_flight = None
        return ended.result()

    def drop(self) -> None:
        """Forgets the cycle in flight: it commits no mask, and the coordinator learns nothing from it."""
        if self._in_flight is not None:
            self._dropped.set()
            self._in_flight.cancel()
            self.coordinator = copy.copy(self.coordinator)  # the cycle goes on with the one that it has
            self._in_flight = None

    def state(self) -> Any:
        """What the coordinator has learned."""
        return encode(self.coordinator.state)

    def check(self, state: Mapping[str, Any]) -> None:
        """What a coordinator has learned fits every other."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what it had learned then."""
        self.coordinator.state = decode(CoordinatorState, state)

    def close(self) -> None:
        """Forgets the cycle in flight and waits until its thread has ended."""
        self.drop()
        self._thread.shutdown(wait=True, cancel_futures=True)


def _allowance(
    strategy: Strategy, coordinator: Coordinator, epoch: int, situation: Situation, affordable: float
) -> Allowance:
    removed = situation.removed_fraction(strategy.cost)
    return strategy.allowed(epoch, coordinator.state.schedule, removed, affordable)


def _ended(outcome: CycleOutcome, checkpoint: CheckpointRef, coordinator: Coordinator) -> CycleEnd:
    mask, epoch, plan = None, outcome.key.epoch, outcome.plan
    if outcome.mask is not None and plan is not None:
        mask = PendingMask(
            epoch, outcome.mask, outcome.is_on_probation, outcome.reason, plan, checkpoint.step
        )
    return CycleEnd(epoch, outcome.reason, coordinator.state, outcome, mask)


def thread_beside_training(name: str) -> ThreadPoolExecutor:
    """An executor of one thread whose PyTorch operators never start threads of their own.

    Operators share their work among a team of OpenMP threads, and every thread that calls them gets a team
    of its own. As soon as a process has more such threads than cores, all of them sleep between operators
    instead of waiting actively: measured on 2 cores, training a small network then takes 1.2 to 1.3 times as
    long, for as long as the second team lives, even if it never computes again.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=_compute_alone)


def _compute_alone() -> None:
    # The number that `set_num_threads` takes is two things: that of the calling thread, and that of threads
    # which call PyTorch for the first time later. The second must stay what the user made it, so another
    # thread, which computes nothing, says it again.
    of_the_user = torch.get_num_threads()
    torch.set_num_threads(1)
    again = threading.Thread(target=torch.set_num_threads, args=(of_the_user,))
    again.start()
    again.join()
