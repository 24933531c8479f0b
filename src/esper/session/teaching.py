"""What a given teacher does in a session: a share of every training step's loss is about its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph import bare, named_tensors, primary_output, undisturbed
from esper.batches import HeldOut, beside, device_of, first_samples, on_device, split_sample
from esper.elesh import PeakMemory
from esper.errors import CheckpointError, ConfigError, EsperError
from esper.kasmina import CheckpointedTeacher, LiveNetwork, StaticKDLoss, TeachingSettings
from esper.nissa import teacher_events
from esper.session.log import RunLog
from esper.session.undoing import undone_on_error
from esper.urabrask import evaluate, run_live

_SAMPLES = 256
"""Held-out samples on which a teacher is compared with who learns, before it begins."""


class Teaching:
    """The teacher of one session.

    Args:
        network: learns.
        settings: how much.
        sample: one batch; a teacher must answer it as the network does.
        held_out: batches on which both are compared.
        log: of the run.

    Attributes:
        teacher: who teaches now; None: nobody. `change` is how it becomes another one.
    """

    def __init__(
        self,
        network: LiveNetwork,
        settings: TeachingSettings,
        sample: Any,
        held_out: HeldOut | None,
        log: RunLog,
    ) -> None:
        self.teacher: CheckpointedTeacher | None = None
        self._network, self._settings, self._log = network, settings, log
        self._sample = sample
        self._batches = [sample] if held_out is None else held_out.validation or held_out.calibration
        self._join = StaticKDLoss(settings.temperature, settings.weight)
        self._faults: Tensor | None = None
        self._was_asked = False

    def change(self, teacher: CheckpointedTeacher | nn.Module | None) -> None:
        """Somebody else teaches from the next step on, or nobody.

        Args:
            teacher: as for `attach`.

        Raises:
            ConfigError: its answers are not about the same classes, it shares weights with the network, or
                an optimizer trains it. The teacher stays who it was.
        """
        network = self._network
        new = teacher_of(teacher, network.model, network.companions, network.optimizer)
        if new is not None:
            with undone_on_error(new.let_go):
                new.freeze()  # it may have been let go after an earlier refusal
                self._introduce(new)
        elif self.teacher is not None:
            self._log.tell(teacher_events.TeacherLeft(self.teacher.digest))
        self.teacher = new

    def loss(self, own: Tensor, output: Any, target: Any, inputs: Any) -> Tensor:
        """The loss of one training step, with the share that is about the teacher's answer.

        Args:
            own: what it is without.
            output: of the network.
            target: of the batch.
            inputs: of the batch, as the network was called with them.

        Raises:
            ConfigError: there is a teacher, and nobody says what the network has seen.
        """
        if self.teacher is None or not torch.is_grad_enabled():
            return own
        if inputs is None:
            raise ConfigError(
                "There is a teacher, and it must see what the network saw: call session.loss(output, target, "
                "inputs). Nothing was computed."
            )
        self._was_asked = True
        if self._log.progress.step % self._settings.stride:
            return own
        taught = self.teacher.answer(inputs)
        faults = (~taught.isfinite()).any().long()
        self._faults = faults if self._faults is None else self._faults + faults
        learned = primary_output(output)
        if learned.shape != taught.shape and learned.shape[-1:] == taught.shape[-1:]:
            taught = taught.reshape_as(learned) if learned.numel() == taught.numel() else taught
        return self._join(own, learned, taught, target)

    def end_epoch(self) -> None:
        """Tells if nobody asks for the loss, or if the teacher's answers were no numbers."""
        if self.teacher is not None and not self._was_asked:
            self._log.tell(teacher_events.NothingTaught("There is a teacher"))
        faults, self._faults = 0 if self._faults is None else int(self._faults), None
        if faults:
            self._log.tell(teacher_events.TeacherFailed(self._log.epoch, faults))

    def state(self) -> str | None:
        """Who teaches; weights of a teacher are in no checkpoint."""
        return None if self.teacher is None else self.teacher.digest

    def check(self, state: str | None) -> None:
        """Whoever resumes has held it against what was given (`check_same`)."""

    def load(self, state: str | None) -> None:
        """Who teaches is given, not loaded."""

    def _introduce(self, teacher: CheckpointedTeacher) -> None:
        """Compares it with the network on the same data, and tells what it knows and what it takes."""
        model, loss = self._network.model, self._network.loss
        can_split = not self._network.graph.is_coupled
        batches = first_samples(self._batches, _SAMPLES, can_split=can_split)
        with undisturbed(model):
            _check_answers(teacher, model, beside(model, self._sample))
            own = evaluate(run_live(model, loss), batches)
            theirs = evaluate(_asked(teacher, model, loss), batches)
        without, with_teacher = self._peaks(teacher)
        told = teacher_events.TeacherJoined if theirs.loss < own.loss else teacher_events.TeacherKnowsLess
        self._log.tell(
            told(
                network=type(teacher.network).__name__,
                digest=teacher.digest,
                parameters=teacher.num_parameters,
                weight=self._settings.weight,
                loss=theirs.loss,
                own_loss=own.loss,
                weight_bytes=teacher.num_bytes,
                is_offloaded=teacher.is_offloaded,
                peak_bytes=without,
                taught_peak_bytes=with_teacher,
            )
        )

    def _peaks(self, teacher: CheckpointedTeacher) -> tuple[int, int]:
        """Most memory that a step takes without the teacher and with it, both measured."""
        model, loss = self._network.model, self._network.loss
        device = device_of(model)
        args, kwargs, target = split_sample(on_device(self._sample, device), with_target=True, model=model)
        learning = [p for p in model.parameters() if p.requires_grad]

        def step(taught: Callable[[], Tensor | None]) -> None:
            output = model(*args, **kwargs)
            value, answer = loss(output, target).reshape(()), taught()
            if answer is not None:
                value = self._join(value, primary_output(output), answer, target)
            if learning and value.requires_grad:  # a network may rest, and something else learn
                torch.autograd.grad(value, learning, allow_unused=True)

        with undisturbed(model), torch.enable_grad():
            step(lambda: None)  # what is made once is not counted
            plain = _peak(device, lambda: step(lambda: None))
            return plain, _peak(device, lambda: step(lambda: teacher.answer(kwargs or args)))


def check_same(teacher: CheckpointedTeacher | None, state: str | None, settings: TeachingSettings) -> None:
    """Refuses to go on with another teacher than a checkpoint was made with.

    Args:
        teacher: given for the resume.
        state: what the checkpoint knows of it.
        settings: whether that matters.

    Raises:
        CheckpointError: both are named.
    """
    given = None if teacher is None else teacher.digest
    if given != state and settings.require_same:
        raise CheckpointError(
            f"The checkpoint was made with {_named(state)}, and {_named(given)} is given, so the run would "
            "not go on as it was. Nothing was changed. Give the same network with the same weights and "
            "precision as `teacher=`; afterwards session.teaching.change(...) takes another. Where it is "
            'lost, config={"teaching": {"require_same": False}} goes on with what is given.'
        )


def _named(digest: str | None) -> str:
    return "no teacher" if digest is None else f"the teacher {digest}"


def teacher_of(
    given: CheckpointedTeacher | nn.Module | None,
    model: nn.Module,
    companions: Sequence[nn.Module],
    optimizer: Optimizer,
) -> CheckpointedTeacher | None:
    """The teacher that was given, as one; it has weights of its own, which nothing trains, prunes or saves.

    Args:
        given: as for `attach`.
        model: learns from it.
        companions: hold copies of that.
        optimizer: trains it.

    Raises:
        ConfigError: it has not, and the parameter is named; or it is no network. It is as it was, and
            learns again if it was frozen to teach.
    """
    if given is None:
        return None
    if not isinstance(given, nn.Module | CheckpointedTeacher):
        raise ConfigError(
            f"A teacher is a network, and {type(given).__name__} is none. Nothing was changed. Give the "
            "module with its weights, or esper.CheckpointedTeacher(network, weights), which reads them from "
            "a file."
        )
    if isinstance(given, CheckpointedTeacher):
        with undone_on_error(given.let_go):
            _check_apart(given.network, model, companions, optimizer)
        return given
    _check_apart(given, model, companions, optimizer)  # before it is frozen
    return CheckpointedTeacher(given)


def _check_apart(
    teacher: nn.Module, model: nn.Module, companions: Sequence[nn.Module], optimizer: Optimizer
) -> None:
    theirs = {id(tensor): name for name, tensor in named_tensors(bare(teacher)).items()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    holders: dict[str, list[Tensor]] = {
        f"the {type(optimizer).__name__}": trained,
        "the network that learns": [*model.parameters(), *model.buffers()],
        "a companion": [t for module in companions for t in (*module.parameters(), *module.buffers())],
    }
    for holder, tensors in holders.items():
        if names := [theirs[id(tensor)] for tensor in tensors if id(tensor) in theirs]:
            raise ConfigError(
                f"{len(names)} tensor(s) of the teacher (the first: {names[0]}) are also held by {holder}. "
                "A teacher stays as it is: give it a copy of its own (copy.deepcopy), and let no optimizer "
                "train it. Nothing was changed."
            )


def _check_answers(teacher: CheckpointedTeacher, model: nn.Module, sample: Any) -> None:
    args, kwargs, _ = split_sample(sample, with_target=True, model=model)
    name = type(teacher.network).__name__
    with torch.no_grad():
        wanted = primary_output(model(*args, **kwargs))
    try:
        answer = teacher.answer(kwargs or args)
    except EsperError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The teacher ({name}) cannot be asked what the network is asked: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}. It gets the same inputs, on the same device. "
            "Nothing was changed. Where it needs others, put it into a module that makes them."
        ) from error
    if answer.shape != wanted.shape:
        raise ConfigError(
            f"The teacher ({name}) answers a batch with the shape {list(answer.shape)}, and the network with "
            f"{list(wanted.shape)}: its classes (tokens) are not those of the network. Nothing was changed. "
            "Give a teacher for the same ones in the same order, or put it into a module that picks them."
        )


def _asked(
    teacher: CheckpointedTeacher, model: nn.Module, loss: Callable[[Any, Any], Tensor]
) -> Callable[[Any], tuple[Tensor, Tensor]]:
    """For `evaluate`: what the teacher makes of the network's batches."""

    def run(batch: Any) -> tuple[Tensor, Tensor]:
        batch = beside(model, batch)
        args, kwargs, target = split_sample(batch, with_target=True, model=model)
        output = teacher.output(kwargs or args)
        return loss(output, target).reshape(()).float(), primary_output(output)

    return run


def _peak(device: torch.device, work: Callable[[], None]) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    peak = PeakMemory()
    work()
    return peak.read()
