"""Recovery after a mask: for a while the run's own dense network teaches what is left of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from esper.anatomy.graph import primary_output
from esper.anatomy.twin import Twin
from esper.checkpoint import CheckpointRef, load_trainer
from esper.emrakul import RecoverySettings
from esper.errors import CheckpointError, ConfigError
from esper.kasmina import LiveNetwork, Teacher, distillation_loss
from esper.nissa import teacher_events
from esper.runs.network import criterion_of, state_of
from esper.session.log import RunLog
from esper.session.saving import TEACHER, Saving


class Recovery:
    """The loss of one run. The teacher is the checkpoint from before the first mask."""

    def __init__(self, settings: RecoverySettings, network: LiveNetwork, saving: Saving, log: RunLog) -> None:
        self._settings = settings
        self._network = network
        self._saving = saving
        self._log = log
        self._teacher: Teacher | None = None
        self._was_asked = self._is_lost = False

    def loss(self, output: Any, target: Any, inputs: Any) -> Tensor:
        """The user's loss, and after a mask also what the teacher thinks of the output."""
        own = self._network.loss(output, target)
        if not self._settings.distill:
            return own
        if inputs is None:
            raise ConfigError(
                "pruning.recovery.distill is on, and the teacher must see what the network saw: call "
                "session.loss(output, target, inputs). Nothing was computed."
            )
        self._was_asked = True
        taught = self._taught(target, inputs)
        if taught is None:
            return own
        lesson = distillation_loss(primary_output(output), taught, target, self._settings.distill_temperature)
        share = self._settings.distill_weight
        return (1 - share) * own + share * lesson

    def _taught(self, target: Any, inputs: Any) -> Tensor | None:
        """The teacher's output, where this step is one that it teaches in."""
        is_its_turn = self._log.progress.step % self._settings.distill_stride == 0
        if not is_its_turn or not self._is_recovering():
            return None
        teacher = self._read_teacher()
        return None if teacher is None else teacher.output(inputs, target)

    def _is_recovering(self) -> bool:
        """Was a mask applied in the last epochs, and not taken back since?"""
        last = next((m for m in reversed(self._log.marks) if m.kind in ("mask", "rollback")), None)
        if last is None or last.kind == "rollback":
            return False
        return self._log.epoch - last.epoch < self._settings.distill_epochs

    def _read_teacher(self) -> Teacher | None:
        if self._teacher is None and not self._is_lost:
            try:
                held = self._saving.held(TEACHER)
                self._teacher = None if held is None else self._read(held)
            except CheckpointError as error:  # no step of training fails for a lesson
                self._is_lost = True
                self._log.tell(teacher_events.TeacherLost(str(error)))
        return self._teacher

    def _read(self, held: CheckpointRef) -> Teacher:
        catalog, model = self._saving.store.catalog, self._network.model
        device = next(parameter.device for parameter in model.parameters())
        weights = state_of(load_trainer(held).model) | criterion_of(held)
        twin = Twin.from_bytes(catalog.blob(held, "twin").read_bytes())
        return Teacher(twin, {name: tensor.to(device) for name, tensor in weights.items()})

    def before_mask(self) -> None:
        """Keeps the newest checkpoint as teacher, if nothing has gone from the network yet."""
        network, saving = self._network, self._saving
        if self._settings.distill and not network.changes and network.masks.num_masked == 0:
            saving.release(TEACHER, but=saving.hold(TEACHER))
            self._teacher, self._is_lost = None, False

    def end_epoch(self) -> None:
        """Tells once if nobody asks for the loss, because then nothing is taught."""
        if self._settings.distill and self._is_recovering() and not self._was_asked:
            self._log.tell(teacher_events.NothingTaught("pruning.recovery.distill is on"))
