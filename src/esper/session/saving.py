"""What a session keeps on disk, and how it comes back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch

from esper.anatomy import Anatomy
from esper.anatomy.structure import BoolArray
from esper.checkpoint import (
    BASELINE,
    BackgroundSaver,
    CheckpointRef,
    CheckpointStore,
    FileRef,
    TrainerState,
    capture_trainer,
    load_trainer,
    restore_trainer,
)
from esper.checkpoint.trainer_state import MODEL_FILE, OPTIMIZER_FILE, TREE_FILE, Stateful
from esper.elesh import Case, DataRef, HeldOut, encode_data
from esper.emrakul import Strategy
from esper.emrakul.cycle import MASK, Decision, read_mask
from esper.errors import RollbackExhausted
from esper.kasmina import LiveNetwork

ANATOMY_FILE = "anatomy.json"
NETWORK_FILE = "network.pt2"


class Saving:
    """Saves the states of one run and reads them back.

    Attributes:
        store: the run directory.
        last_step: step of the newest checkpoint that was handed to the writer, or -1.
        last_epoch: its epoch.
        stalls: milliseconds per gigabyte that training waited for the copy, one number per save.
    """

    def __init__(
        self,
        store: CheckpointStore,
        schedulers: Sequence[Stateful],
        scaler: Stateful | None,
        *,
        background: bool,
    ) -> None:
        self.store = store
        self.last_step = -1
        self.last_epoch = -1
        self.stalls: list[float] = []
        self._saver = BackgroundSaver(store)
        self._schedulers = tuple(schedulers)
        self._scaler = scaler
        self._background = background
        self._blobs: dict[str, FileRef] = {}
        self._network: LiveNetwork
        self._anatomy = b""

    def keep_data(self, sample: Any, held_out: HeldOut) -> None:
        """Stores the sample and the held-out batches once, for workers and for `resume`."""
        tree, tensors = encode_data(sample, held_out)
        self._blobs["batches"] = self.store.put_blob("batches", tree)
        self._blobs["samples"] = self.store.put_blob("samples", safetensors.torch.save(tensors))

    def structure_changed(self, network: LiveNetwork) -> None:
        """Stores the twin of the network as it is now, for the checkpoints to come."""
        self._network = network
        self._anatomy = json.dumps(network.anatomy.to_json()).encode()
        self._blobs["twin"] = self.store.put_blob("twin", network.twin)

    def save(
        self,
        step: int,
        epoch: int,
        extra: Mapping[str, Any],
        *,
        pin: str | None = None,
        more: Mapping[str, bytes] | None = None,
    ) -> None:
        """Saves the live state; training waits for a copy only, unless background saving is off."""
        state = capture_trainer(
            self._network.model,
            self._network.optimizer,
            step=step,
            epoch=epoch,
            schedulers=self._schedulers,
            scaler=self._scaler,
            extra=extra,
        )
        files = {**state.files(), ANATOMY_FILE: self._anatomy, **(more or {})}
        stall = self._saver.submit(step, epoch, files, blobs=dict(self._blobs), pin=pin)
        self.stalls.append(stall.copy_ms_per_gb)
        self.last_step, self.last_epoch = step, epoch
        if not self._background:
            self._saver.wait()

    def durable(self) -> Callable[[], CheckpointRef]:
        """For another thread: waits until the newest save is durable and returns it."""
        pending = self._saver.pending
        if pending is not None:
            return pending.result
        newest = self._saver.last_saved or self.store.latest()
        if newest is None:
            raise RollbackExhausted(f"{self.store.run_dir} holds no checkpoint that verifies.")
        return lambda: newest

    def check(self) -> None:
        """Raises what went wrong in the background."""
        self._saver.check()

    def wait(self) -> None:
        self._saver.wait()

    def close(self) -> None:
        try:
            self._saver.close()
        finally:
            self.store.close()

    def data(self, checkpoint: CheckpointRef) -> DataRef:
        """Where the sample and the held-out batches of a run lie."""
        blob = self.store.catalog.blob
        return DataRef(blob(checkpoint, "batches"), blob(checkpoint, "samples"))

    def case(self, checkpoint: CheckpointRef, keep: BoolArray, tracked: tuple[float, ...] | None) -> Case:
        """What workers need to know about a checkpoint."""
        return Case(
            twin=self.store.catalog.blob(checkpoint, "twin"),
            anatomy=checkpoint.file(ANATOMY_FILE),
            model=checkpoint.file(MODEL_FILE),
            optimizer=DataRef(checkpoint.file(TREE_FILE), checkpoint.file(OPTIMIZER_FILE)),
            tracked=tracked,
            data=self.data(checkpoint),
            masked=tuple((~keep).nonzero()[0].tolist()),
        )

    def read(self, checkpoint: CheckpointRef) -> TrainerState:
        return load_trainer(checkpoint)

    def restore(
        self,
        state: TrainerState,
        network: LiveNetwork,
        schedulers: Sequence[Stateful],
        scaler: Stateful | None,
    ) -> None:
        restore_trainer(state, network.model, network.optimizer, schedulers=schedulers, scaler=scaler)

    def returned_to(self, checkpoint: CheckpointRef) -> None:
        """Training goes on from here: later checkpoints are of a future that will not happen."""
        self.store.withdraw_after(checkpoint)
        self.last_step, self.last_epoch = checkpoint.step, checkpoint.epoch

    def before(self, step: int, strategy: Strategy, attempts: int) -> CheckpointRef:
        """The checkpoint to go back to: the newest verified one up to `step`, older with every attempt.

        Raises:
            RollbackExhausted: none is left.
        """
        catalog = self.store.catalog
        verified = [c for c in catalog.list().checkpoints if c.step <= step and self.store.verify(c).is_ok]
        if strategy is Strategy.BASELINE:
            verified = [c for c in verified if BASELINE in self.store.pins().get(c.step, frozenset())]
        if not verified:
            raise RollbackExhausted(
                f"{self.store.run_dir} holds no checkpoint up to step {step} that verifies, so there is nothing to go "
                "back to. The network stays as it is; look at `esper verify`."
            )
        back = attempts - 1 if strategy is Strategy.PROGRESSIVE else 0
        return verified[max(len(verified) - 1 - back, 0)]

    def decided(self, checkpoint: CheckpointRef, anatomy: Anatomy) -> Decision | None:
        """The mask that was committed beside a checkpoint, if it came that far."""
        return read_mask(self.store, checkpoint, anatomy)

    def release_masks(self) -> None:
        """Masks that were cut or taken back no longer keep the checkpoints that they were decided from."""
        pinned = self.store.pins()
        for checkpoint in self.store.list().checkpoints:
            if MASK in pinned.get(checkpoint.step, frozenset()):
                self.store.unpin(checkpoint, MASK)
