"""The callback that follows a Hugging Face `Trainer`."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import esper
from esper.anatomy.graph import group_of
from esper.batches import on_device
from esper.config import Config
from esper.errors import ConfigError
from esper.integrations.guest import (
    Guest,
    Loading,
    check_beside,
    refuse_strangers,
    refuse_twice,
    say,
    say_few,
    unnoticed,
)
from esper.integrations.several import BY_HAND, refuse_way
from esper.integrations.transformers.batches import Batches, metric_of, period_of
from esper.integrations.wish import Wish, settings
from esper.session import GivenCompanions, Result, Session, refused_by_all

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError as missing:
    raise ImportError(
        "esper.integrations.transformers needs the libraries transformers and accelerate, which cannot be "
        f"imported here ({missing}). Install them: pip install 'esper-torch[transformers]'."
    ) from missing


class EsperCallback(TrainerCallback, ExportableState):  # type: ignore[misc]
    """Prunes the network that a `Trainer` trains, and cuts it when the training has ended.

    Decisions are made once in a period: as often as the trainer evaluates, or every `every_n_steps`. The
    trainer's own checkpoints and those of the run stand side by side, and `resume_from_checkpoint` goes on
    with both.

    Attributes:
        session: the run, once training has begun.
        result: what it led to, once training has ended.
    """

    def __init__(
        self,
        *,
        run_dir: str | Path,
        target: float | Mapping[str, float] | None = None,
        config: Config | Mapping[str, Any] | None = None,
        metric: str | None = None,
        higher_is_better: bool | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        probe: Iterable[Any] | None = None,
        every_n_steps: int | None = None,
        companions: GivenCompanions = (),
    ) -> None:
        """Says what is wanted; nothing happens before the training begins.

        Args:
            run_dir: where checkpoints, masks and the report go; not the trainer's `output_dir`.
            target: share of the FLOPs to remove, or `{"parameters": 0.4}`.
            config: further settings.
            metric: name of an evaluation's metric, with or without "eval_", that decides; by default
                `metric_for_best_model`, or else the loss.
            higher_is_better: its direction; by default `greater_is_better`, or what the name says.
            loss: `loss(output, labels)`, for networks that compute none themselves.
            probe: batches of held-out data; by default of `eval_dataset`.
            every_n_steps: optimizer steps of a period, other than those between two evaluations.
            companions: copies of the network that another callback keeps, such as an average: modules, or
                dicts or lists of tensors; masked and cut with it.

        Raises:
            ConfigError: a setting is not known, or nothing is asked for.
        """
        self.session: Session | None = None
        self.result: Result | None = None
        self._wish = Wish(
            run_dir=Path(run_dir).absolute(),
            config=settings(target, config),
            metric=None if metric is None else metric.removeprefix("eval_"),
            higher_is_better=higher_is_better,
            loss=loss,
            probe=probe,
            every_n_steps=every_n_steps,
        )
        self._companions = companions
        self._guest: Guest | None = None
        self._waits = False  # for an evaluation that ends the period
        self._is_other = False  # the network is masked or cut otherwise than at the evaluation before
        self._numbers: dict[str, float] = {}  # that were evaluated since the last period ended
        self._steps: dict[str, int] = {}  # of the run's checkpoints, by the trainer's that they stand beside
        self._saved: dict[str, Any] | None = None
        self._loading: Loading | None = None

    def on_init_end(self, *_: Any, **__: Any) -> None:
        """Stands ready for a checkpoint of a network that was cut."""
        trainer = weakref.proxy(_trainer())
        self._loading = Loading([trainer.model], lambda: bool(trainer.is_in_train))

    def on_train_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, **named: Any) -> None:
        """Attaches to the training, or goes on with the run that the trainer's checkpoint belongs to.

        Raises:
            ConfigError: something is missing, or cannot be followed.
            CheckpointError: the trainer's checkpoint and the run do not belong together.
            UntraceableError: the network cannot be followed; the message names the line.
        """
        trainer = _trainer()
        network, optimizer = trainer.model_wrapped, named["optimizer"]
        with refused_by_all(network):
            self._check(trainer, state)
            self._tell_loss(trainer)
            batches = Batches(trainer, self._wish)
            saved = _stored(state)
            if state.global_step and saved.get("saved") is not None:
                self._steps, self._is_other = dict(saved["steps"]), bool(saved["is_other"])
                begin = self._goes_on(optimizer, batches, saved["saved"])
            else:
                begin = self._begins(trainer, state, batches, named.get("train_dataloader"))
        self.session = begin(network, optimizer, companions=self._companions)
        self._waits = self.session.is_due  # it was saved before the evaluation at the end
        self._guest = Guest(self.session)
        if self._loading is not None:
            self._loading.has_declined = False

    def on_step_begin(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Ends a period whose evaluation did not come."""
        if self._waits:
            self._end(state)
        if self._is_other:
            _forget_best(state)
            self._is_other = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """Ends an optimizer step; where the trainer evaluates next, that comes first."""
        if self._guest is None or not self._guest.session.is_due:
            return
        is_end = control.should_training_stop or state.global_step >= state.max_steps
        ends_epoch = args.eval_strategy == "epoch" and (is_end or float(state.epoch or 0.5).is_integer())
        # A save comes before the evaluation of an epoch, and what is saved here has to have ended its period,
        # but for the save that the trainer makes at the very end.
        self._waits = control.should_evaluate or (ends_epoch and (is_end or not control.should_save))
        if not self._waits:
            self._end(state)

    def on_epoch_end(
        self, _: TrainingArguments, state: TrainerState, control: TrainerControl, **__: Any
    ) -> None:
        """Ends a period with the epoch, unless the trainer evaluates next."""
        if self._waits and not control.should_evaluate:
            self._end(state)

    def on_evaluate(self, _: TrainingArguments, state: TrainerState, *__: Any, **named: Any) -> None:
        """Takes what was measured."""
        if self._guest is None:
            return
        named_so = {key.removeprefix("eval_"): value for key, value in (named.get("metrics") or {}).items()}
        self._numbers |= named_so  # one of several sets may not be the one that decides
        is_one_of_many = isinstance(_trainer().eval_dataset, dict)
        if not is_one_of_many or self._guest.session.metric in named_so:
            self._end(state)

    def on_train_end(self, _: TrainingArguments, state: TrainerState, *__: Any, **___: Any) -> None:
        """Cuts the network for good and writes the report."""
        if self._guest is None:
            return
        if self._waits:
            self._end(state)
        if self._loading is not None:
            self._loading.stop()
            if self._loading.has_declined:
                say(
                    f"{state.best_model_checkpoint} is of the network before a cut, so the network of the "
                    "last step was kept in its place.",
                    is_problem=True,
                )
        self.result, self._guest = self._guest.finish(), None

    def state(self) -> dict[str, Any]:
        """What the trainer writes into a checkpoint: the run's own checkpoint of this very step."""
        if self._guest is not None:
            self._saved = self._guest.save(
                [step for path, step in self._steps.items() if Path(path).is_dir()]
            )
            place = _trainer().args.output_dir
            if self._saved is not None:
                name = str(Path(place, f"checkpoint-{_trainer().state.global_step}").absolute())
                self._steps[name] = self._saved["step"]
        wish = self._wish
        args = {
            "run_dir": str(wish.run_dir),
            "config": wish.config.model_dump(mode="json", exclude_unset=True),
            "metric": wish.metric,
            "higher_is_better": wish.higher_is_better,
            "every_n_steps": wish.every_n_steps,
        }
        kept = {"_saved": self._saved, "_steps": self._steps, "_is_other": self._is_other}
        return {"args": args, "attributes": kept}

    def _end(self, state: TrainerState) -> None:
        self._waits = False
        numbers, self._numbers = self._numbers, {}
        if self._guest is not None and self._guest.end_step(numbers):
            # An older checkpoint is no longer the best of this network. What is measured next may be of
            # before the change, so that even the next best is forgotten before the next step.
            _forget_best(state)
            self._is_other = True

    def _check(self, trainer: Trainer, state: TrainerState) -> None:
        count = sum(isinstance(other, EsperCallback) for other in trainer.callback_handler.callbacks)
        refuse_twice(self.session, count)
        if state.is_hyper_param_search:
            raise ConfigError(
                "A hyperparameter search trains many networks, and a run of Esper is about one. Nothing was "
                "changed. Search first, then train once with EsperCallback."
            )
        refuse_way("Trainer", *_unknown_way(trainer))

    def _tell_loss(self, trainer: Trainer) -> None:
        is_given = self._wish.loss is not None or trainer.compute_loss_func is not None
        if not is_given and type(trainer).compute_loss is not Trainer.compute_loss:
            say(
                f"This {type(trainer).__name__} computes its loss by a compute_loss of its own, and Esper "
                "measures with the one that the network gives. Where they differ, give "
                "EsperCallback(loss=...), a function of what the network gives and the labels.",
                is_problem=True,
            )

    def _begins(
        self, trainer: Trainer, state: TrainerState, batches: Batches, loader: Any
    ) -> Callable[..., Session]:
        """How a run begins, given the network and its optimizer."""
        way_on = "trainer.train(resume_from_checkpoint=True)"
        refuse_strangers(self._wish.run_dir, state.global_step, self._loading, way_on)
        with unnoticed():
            held_out = batches.held_out()
        metric, is_higher_better = metric_of(self._wish, trainer.args, trainer.eval_dataset)
        every = period_of(self._wish, trainer.args, state, loader)
        left = state.max_steps - state.global_step
        say_few(left // every, every)
        return partial(
            esper.attach,
            loss=batches.loss,
            sample=on_device(held_out[0], trainer.args.device),
            probe=held_out,
            metric=metric,
            higher_is_better=is_higher_better,
            run_dir=self._wish.run_dir,
            config=self._wish.config,
            steps=left,
            every_n_steps=every,
        )

    def _goes_on(self, optimizer: Any, batches: Batches, saved: Mapping[str, Any]) -> Callable[..., Session]:
        """How the run goes on that the trainer's checkpoint belongs to, likewise."""
        check_beside(self._wish.run_dir, saved)
        # What was loaded may have the shapes of the network after its cuts; the run knows better.
        optimizer.optimizer.state.clear()
        run, config = self._wish.run_dir, self._wish.config
        return partial(esper.resume, run, loss=batches.loss, config=config, step=saved["step"])


def _trainer() -> Trainer:
    """The trainer whose method is running: it hands its callbacks everything but itself."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer):
            return caller
        frame = frame.f_back
    raise ConfigError("EsperCallback is called by a transformers.Trainer, and here is none.")


def _unknown_way(trainer: Trainer) -> tuple[str, str]:
    """How several processes or cards train what cannot be followed, and the way out; both empty if it can."""
    if trainer.is_deepspeed_enabled:
        return "DeepSpeed", BY_HAND
    if trainer.is_fsdp_enabled:
        return "FSDP", BY_HAND
    if trainer.args.n_gpu > 1:
        way_out = f"Start one process for each card: torchrun --nproc_per_node {trainer.args.n_gpu} script.py"
        return "DataParallel, one process for several cards", way_out
    if trainer.args.world_size > 1 and group_of(trainer.model_wrapped) is None:
        return f"{trainer.args.world_size} processes without DistributedDataParallel", BY_HAND
    return "", ""


def _stored(state: TrainerState) -> Mapping[str, Any]:
    """What an EsperCallback has written into the checkpoint from which the trainer goes on."""
    entry = (state.stateful_callbacks or {}).get(EsperCallback.__name__) or {}
    attributes = entry.get("attributes", {}) if isinstance(entry, Mapping) else {}
    return {
        "saved": attributes.get("_saved"),
        "steps": attributes.get("_steps", {}),
        "is_other": attributes.get("_is_other", False),
    }


def _forget_best(state: TrainerState) -> None:
    """What is measured from now on is of another network, so that nothing from before is its best."""
    state.best_metric = state.best_global_step = state.best_model_checkpoint = None
