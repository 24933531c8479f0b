"""What a session keeps on disk, and how it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from esper.anatomy import Anatomy
from esper.batches import HeldOut
from esper.checkpoint import (
    BASELINE,
    BackgroundSaver,
    CheckpointRef,
    CheckpointStore,
    FileRef,
    Memory,
    file_pieces,
)
from esper.elesh import encode_data
from esper.emrakul import Strategy
from esper.emrakul.cycle import MASK, CycleEnd, read_mask
from esper.errors import CheckpointError, RollbackExhausted
from esper.kasmina import LiveNetwork
from esper.leyline import encode
from esper.runs.network import ANATOMY_FILE, read_state, state_files
from esper.session.log import Progress

TRIAL = "trial"
"""Label of the checkpoint from before a mask that is on trial."""
TEACHER = "teacher"
"""Label of the checkpoint from before the first mask, while distillation is on."""
LAST_FINITE = "last-finite"
"""Label of the checkpoint from before the metric stopped being a number."""
PERIOD = "period"
"""Label of the checkpoint with which the last period ended, while there are newer ones."""


class Saving:
    """Saves what one run remembers, and goes back to it.

    A save that fails stops nothing that is under way: `failure` tells it, and the next save is tried anyway.

    Attributes:
        store: the run directory.
        memory: all that is saved and comes back.
        last_step: step of the newest checkpoint that was handed to the writer, or -1.
        last_epoch: its epoch.
        stalls: milliseconds per gigabyte that training waited for the copy, one number per save.
        stall_seconds: how long the last save held training up; None before the first.
    """

    def __init__(
        self, store: CheckpointStore, network: LiveNetwork, memory: Memory, *, background: bool
    ) -> None:
        self.store = store
        self.last_step = -1
        self.last_epoch = -1
        self.stalls: list[float] = []
        self.stall_seconds: float | None = None
        self._saver = BackgroundSaver(store)
        self._network = network
        self.memory = memory
        self._background = background
        self._blobs: dict[str, FileRef] = {}
        self._twin = b""
        self._failure: CheckpointError | None = None
        self._gone_back_to: CheckpointRef | None = None

    def keep_data(self, sample: Any, held_out: HeldOut) -> None:
        """Stores the sample and the held-out batches once, for workers and for `resume`."""
        tree, tensors = encode_data(sample, held_out)
        self._blobs["batches"] = self.store.put_blob("batches", tree)
        self._blobs["samples"] = self.store.put_blob("samples", b"".join(file_pieces(tensors)))

    def save(
        self, step: int, epoch: int, *, pin: str | None = None, more: Mapping[str, bytes] | None = None
    ) -> None:
        """Saves the live state; training waits for a copy only, unless background saving is off."""
        self.settle()
        with self._failing_later():
            self._submit(step, epoch, pin, more or {})
        if not self._background:
            self.settle()

    def save_pinned(self, step: int, epoch: int, label: str, more: Mapping[str, bytes] | None = None) -> None:
        """Saves the live state for good, and waits until it is durable.

        Raises:
            CheckpointError: it could not be saved.
        """
        self.save(step, epoch, pin=label, more=more)
        if (failure := self.failure(wait=True)) is not None:
            raise failure

    def _submit(self, step: int, epoch: int, pin: str | None, more: Mapping[str, bytes]) -> None:
        self._delete_later_ones()  # or they would be in the way of what comes now
        network = self._network
        if self._twin is not (twin := network.twin):  # one is stored as long as it stays what it is
            self._blobs["twin"] = self.store.put_blob("twin", twin)
            self._twin = twin
        anatomy = json.dumps(encode(network.anatomy)).encode()
        files = {**state_files(step, epoch, self.memory.state()), ANATOMY_FILE: anatomy, **more}
        stall = self._saver.submit(step, epoch, files, blobs=dict(self._blobs), pin=pin)
        self.stalls.append(stall.copy_ms_per_gb)
        self.stall_seconds = stall.waited_seconds + stall.copied_seconds
        self.last_step, self.last_epoch = step, epoch

    def durable(self) -> Callable[[], CheckpointRef]:
        """For another thread: waits until the newest save is durable and returns it."""
        pending = self._saver.pending
        if pending is not None:
            return pending.result
        newest = self._saver.last_saved or self.store.latest()
        if newest is None:
            raise RollbackExhausted(f"{self.store.run_dir} holds no checkpoint that verifies.")
        return lambda: newest

    @property
    def newest(self) -> CheckpointRef | None:
        """The newest checkpoint that is known to be durable."""
        return self._saver.last_saved

    def save_beside(self, progress: Progress, label: str, keep: Collection[int]) -> CheckpointRef:
        """Saves the live state, wherever in a period, and waits until that is durable.

        For loops that keep checkpoints of their own, which have to agree with those of this run.

        Args:
            progress: where training is.
            label: why it is kept.
            keep: of what was kept under this label before, the steps that still are.

        Raises:
            CheckpointError: it could not be saved; training can go on.
        """
        rows = progress.epochs
        if progress.step > self.last_step:
            if rows and rows[-1].step == self.last_step:  # what is being decided is about that one
                self.keep(PERIOD, {self.hold(PERIOD)})
            self.save(progress.step, progress.epoch)
        failure = self.failure(wait=True)
        if failure is not None:
            raise failure
        saved = self.store.catalog.at(self.hold(label))
        self.keep(label, {*keep, saved.step})
        return saved

    def keep(self, label: str, steps: Collection[int]) -> None:
        """Of the checkpoints that are kept under `label`, only those of these steps stay so."""
        with self._failing_later():
            pinned = self.store.pins()
            for checkpoint in self.store.list().checkpoints:
                if checkpoint.step not in steps and label in pinned.get(checkpoint.step, frozenset()):
                    self.store.unpin(checkpoint, label)

    def failure(self, *, wait: bool = False) -> CheckpointError | None:
        """Why a save failed since this was asked last, or None; with `wait`, the save under way included."""
        with self._failing_later():
            if wait:
                self._saver.wait()
            else:
                self._saver.check()
        failure, self._failure = self._failure, None
        return failure

    def settle(self) -> None:
        """Waits until no save is under way."""
        with self._failing_later():
            self._saver.wait()

    @contextmanager
    def _failing_later(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:  # raised by the session when the epoch has ended properly
            self._failure = self._failure or error
            newest = self._saver.last_saved
            self.last_step, self.last_epoch = (-1, -1) if newest is None else (newest.step, newest.epoch)

    def close(self) -> None:
        try:
            self._saver.close()
        finally:
            self.store.close()

    def return_to(
        self, checkpoint: CheckpointRef, saved: Mapping[str, Any] | None = None, *, as_rollback: bool
    ) -> bool:
        """Training goes on from here: later checkpoints are of a future that will not happen.

        What it holds is read, unless it is given because it was read already.

        A rollback deletes them, and keeps what it has learned and told since; where they cannot be deleted
        now, that is tried again before the next save. A resume goes back because nothing vouches for them,
        and sets them aside. Returns whether there were any that it has set aside.
        """
        self.memory.load(read_state(checkpoint) if saved is None else saved, as_rollback=as_rollback)
        self.settle()
        went_aside = () if as_rollback else self.store.set_aside_after(checkpoint)
        self._gone_back_to = checkpoint if as_rollback else None
        self._saver.last_saved = checkpoint
        self.last_step, self.last_epoch = checkpoint.step, checkpoint.epoch
        with self._failing_later():
            self._delete_later_ones()
        return bool(went_aside)

    def _delete_later_ones(self) -> None:
        """Deletes what is later than where training went back to, until that has succeeded once."""
        if self._gone_back_to is not None:
            self.store.withdraw_after(self._gone_back_to)
            self._gone_back_to = None

    def decided_about(self, checkpoint: CheckpointRef, progress: Progress) -> CheckpointRef:
        """The checkpoint that decisions are about: of the end of the last period, if it is there.

        Or of the end of the run, which was finished since and goes on: its last cut was made there.
        """
        ends = [row.step for row in progress.epochs[-1:]]
        if progress.ending is not None:
            ends.append(progress.ending.checkpoint)
        last = max(ends, default=checkpoint.step)
        return next((other for other in self.store.list().checkpoints if other.step == last), checkpoint)

    def before(
        self, step: int, strategy: Strategy, passes: Callable[[CheckpointRef], bool] = lambda _: True
    ) -> CheckpointRef:
        """The checkpoint to go back to: the newest verified one up to `step`, or further back.

        Args:
            step: of the last checkpoint without what must go.
            strategy: `PROGRESSIVE` walks on to the first one before it that passes, or to the oldest;
                `BASELINE` takes the one from before anything was removed.
            passes: whether the network of a checkpoint was as good as expected.

        Raises:
            RollbackExhausted: none is left.
        """
        reports = [(c, self.store.verify(c)) for c in self.store.list().checkpoints if c.step <= step]
        verified = [checkpoint.seen_by(report) for checkpoint, report in reports if report.is_ok]
        if strategy is Strategy.BASELINE:
            verified = [c for c in verified if BASELINE in self.store.pins().get(c.step, frozenset())]
        if not verified:
            raise RollbackExhausted(
                f"{self.store.run_dir} holds no checkpoint up to step {step} that verifies, so there is "
                "nothing to go back to. Network and optimizer were left as they are; training can go on. "
                f"`esper verify {self.store.run_dir}` tells what is damaged."
            )
        if strategy is not Strategy.PROGRESSIVE:
            return verified[-1]
        older = verified[:-1] or verified
        return next((checkpoint for checkpoint in reversed(older) if passes(checkpoint)), older[0])

    def decided(self, checkpoint: CheckpointRef, anatomy: Anatomy) -> CycleEnd | None:
        """The mask that was committed beside a checkpoint, unless it was cut or taken back since."""
        if MASK not in self.store.pins().get(checkpoint.step, frozenset()):
            return None
        return read_mask(self.store, checkpoint, anatomy)

    def is_spent(self, checkpoint: CheckpointRef) -> bool:
        """Was a mask committed beside it and cut or taken back since? Nothing more is decided from it."""
        pinned = self.store.pins().get(checkpoint.step, frozenset())
        return MASK not in pinned and (checkpoint.path / MASK).exists()

    def decide_again(self, checkpoint: CheckpointRef) -> None:
        """What became of the mask beside it was of a future that is gone: it is to be tried once more."""
        if self.is_spent(checkpoint):
            with self._failing_later():
                self.store.pin(checkpoint, MASK)

    def hold(self, label: str) -> int:
        """Keeps the newest durable checkpoint until `release`; returns its step, -1 if there is none."""
        self.settle()
        newest = self._saver.last_saved
        if newest is None:
            return -1
        with self._failing_later():
            self.store.pin(newest, label)
        return newest.step

    def held(self, label: str) -> CheckpointRef | None:
        """The newest checkpoint that is kept under `label`, verified."""
        steps = [step for step, labels in self.store.pins().items() if label in labels]
        return self.store.catalog.at(max(steps)) if steps else None

    def is_held(self, label: str) -> bool:
        """Whether a checkpoint is kept under `label`."""
        return any(label in labels for labels in self.store.pins().values())

    def release(self, label: str, *, but: int = -1) -> None:
        """What was kept under `label` may go, except for step `but`."""
        self.keep(label, {but})

    def release_masks(self, *, but: int = -1, base: int = -1) -> None:
        """Masks that were cut or taken back no longer keep the checkpoints around them.

        Args:
            but: of those beside which a mask was committed, the step of one that is kept.
            base: of those from before a mask, the step of one that is kept.
        """
        self.release(MASK, but=but)
        self.release(TRIAL, but=base)
