"""The callback that follows a Lightning `Trainer`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import esper
from esper.batches import on_device, samples
from esper.config import Config
from esper.errors import ConfigError
from esper.integrations.guest import (
    PERIODS,
    Guest,
    Loading,
    check_beside,
    first_batches,
    refuse_strangers,
    refuse_twice,
    say_few,
    unnoticed,
)
from esper.integrations.several import BY_HAND, is_first_rank, refuse_way
from esper.integrations.wish import Wish, settings
from esper.session import FROM_PROBE, Result, Session, direction_of, refused_by_all

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ParallelStrategy, Strategy
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

    from esper.integrations.lightning.averages import (  # needs lightning, too
        averages_of,
        behind_averages,
        refuse_inner,
        refuse_late,
    )
except ImportError as missing:
    raise ImportError(
        "esper.integrations.lightning needs the library lightning, which cannot be imported here "
        f"({missing}). Install it: pip install 'esper-torch[lightning]'."
    ) from missing


class EsperCallback(Callback):  # type: ignore[misc]
    """Prunes the network that a `Trainer` fits, and cuts it when the training has ended.

    Decisions are made once in a period: as often as the trainer validates, or every `every_n_steps`. The
    checkpoints of `ModelCheckpoint` and those of the run stand side by side, and `fit(ckpt_path=...)` goes on
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
        network: str = "",
    ) -> None:
        """Says what is wanted; nothing happens before the training begins.

        Args:
            run_dir: where checkpoints, masks and the report go.
            target: share of the FLOPs to remove, or `{"parameters": 0.4}`.
            config: further settings.
            metric: name of something that the module logs in validation, which decides; by default what a
                `ModelCheckpoint` monitors, or else the loss on Esper's own held-out batches.
            higher_is_better: its direction; by default the checkpoint's `mode`, or what the name says.
            loss: `loss(output, target)`; by default the one loss of `torch.nn` that the module holds.
            probe: batches of held-out data, `(input, target)`; by default of the validation data.
            every_n_steps: optimizer steps of a period, other than those between two validations.
            network: which part of the module is pruned, `generator`; by default all of it.

        Raises:
            ConfigError: a setting is not known, or nothing is asked for.
        """
        super().__init__()
        self.session: Session | None = None
        self.result: Result | None = None
        self._wish = Wish(
            run_dir=Path(run_dir).absolute(),
            config=settings(target, config),
            metric=metric,
            higher_is_better=higher_is_better,
            loss=loss,
            probe=probe,
            every_n_steps=every_n_steps,
        )
        self._network = network
        self._guest: Guest | None = None
        self._waits = False  # for a validation that ends the period
        self._is_other = False  # the network is masked or cut otherwise than at the validation before
        self._saved: dict[str, Any] | None = None
        self._files: dict[str, tuple[float, int]] = {}  # checkpoints of the trainer: when, at which step
        self._steps: set[int] = set()  # of the run's checkpoints that stand beside them
        self._loading: Loading | None = None
        self._companions: list[nn.Module] | None = None  # until the first step, where no more may come

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stands ready for a checkpoint of a network that was cut."""
        if stage == "fit":
            self._check(trainer)
            # A copy that another callback makes after this has the hook of the network that it copies.
            copies = averages_of(pl_module, self._network, trainer.callbacks).values()
            self._loading = Loading(
                (pl_module.get_submodule(self._network), *copies),
                lambda: trainer.state.fn == "fit" and self.session is None,
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches to the training, or goes on with the run that the trainer's checkpoint belongs to.

        Raises:
            ConfigError: something is missing, or cannot be followed.
            CheckpointError: the trainer's checkpoint and the run do not belong together.
            UntraceableError: the network cannot be followed; the message names the line.
        """
        network = pl_module.get_submodule(self._network)
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            network = trainer.strategy.model
        with refused_by_all(network):
            refuse_inner(pl_module.get_submodule(self._network))
            trainer.callbacks = behind_averages(self, trainer.callbacks)
            companions = list(averages_of(pl_module, self._network, trainer.callbacks).values())
            optimizer = _optimizer_of(trainer, network)
            loss = self._wish.loss or _loss_of(pl_module)
            begin = (
                self._begins(trainer, pl_module)
                if self._saved is None
                else self._goes_on(optimizer, self._saved)
            )
        self.session = begin(network, optimizer, loss=loss, companions=companions, config=self._wish.config)
        self._guest = Guest(self.session)
        self._waits = self.session.is_due
        self._companions = companions

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Ends a period whose validation did not come.

        Raises:
            ConfigError: before the first step, because there is an average now that no cut would reach.
        """
        if self._companions is not None:
            refuse_late(averages_of(pl_module, self._network, trainer.callbacks), self._companions)
            self._companions = None
        if self._waits:
            self._end(trainer)
        if self._is_other:
            self._forget_best(trainer)
            self._is_other = False

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Ends an optimizer step; where the trainer validates next, that comes first."""
        if self._guest is not None and self._guest.session.is_due:
            self._waits = bool(trainer.enable_validation)
            if not self._waits:
                self._end(trainer)

    def on_validation_end(self, trainer: Trainer, _: LightningModule) -> None:
        """Takes what was measured."""
        if self._guest is not None and not trainer.sanity_checking:
            numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
            self._end(trainer, numbers)

    def on_train_end(self, trainer: Trainer, _: LightningModule) -> None:
        """Cuts the network for good and writes the report."""
        if self._guest is None:
            return
        if self._waits:
            self._end(trainer)
        self.result, self._guest = self._guest.finish(), None

    def on_exception(self, *_: Any) -> None:
        """Lets go of the network; the run can be resumed."""
        if self._guest is not None:
            self._guest.session.detach()
            self._guest = None

    def on_save_checkpoint(self, trainer: Trainer, _: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Puts into a checkpoint which of the run's own stands beside it: one of this very step."""
        self._note_files(trainer)
        if self._guest is not None:
            gone = {step for path, (_, step) in self._files.items() if not Path(path).is_file()}
            alive = {step for path, (_, step) in self._files.items() if Path(path).is_file()}
            self._steps -= gone - alive
            self._saved = self._guest.save(self._steps)
            self._steps |= set() if self._saved is None else {self._saved["step"]}
        checkpoint["callbacks"][self.state_key] = {
            "saved": self._saved,
            "files": self._files,
            "steps": sorted(self._steps),
            "is_other": self._is_other,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers which of the run's checkpoints stands beside the one that is loaded."""
        self._saved = state_dict["saved"]
        self._is_other = bool(state_dict.get("is_other", False))
        self._files, self._steps = dict(state_dict["files"]), set(state_dict["steps"])

    def _begins(self, trainer: Trainer, module: LightningModule) -> Callable[..., Session]:
        """How a run begins, given what it is about."""
        run = self._wish.run_dir
        refuse_strangers(run, trainer.global_step, self._loading, "trainer.fit(..., ckpt_path=...)")
        with unnoticed():
            held_out = _held_out(trainer, self._wish)
        metric, is_higher_better = _metric_of(trainer, self._wish)
        every = self._wish.every_n_steps or _period_of(trainer)
        steps = trainer.estimated_stepping_batches
        steps = int(steps) - trainer.global_step if 0 < steps < math.inf else None
        if steps is not None:
            say_few(steps // every, every)
        return partial(
            esper.attach,
            sample=on_device(held_out[0], module.device),
            probe=held_out,
            metric=metric,
            higher_is_better=is_higher_better,
            run_dir=run,
            steps=steps,
            every_n_steps=every,
        )

    def _goes_on(self, optimizer: Optimizer, saved: Mapping[str, Any]) -> Callable[..., Session]:
        """How the run goes on that the trainer's checkpoint belongs to, likewise."""
        check_beside(self._wish.run_dir, saved)
        optimizer.state.clear()  # what was loaded may have the shapes of the network after its cuts
        return partial(esper.resume, self._wish.run_dir, step=saved["step"])

    def _note_files(self, trainer: Trainer) -> None:
        """Files that are new since the last save were written with it; only `ModelCheckpoint` names them."""
        if self._saved is None or not is_first_rank():  # which writes them, and deletes them
            return
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint):
                continue
            for path in (*callback.best_k_models, callback.best_model_path, callback.last_model_path):
                if path and Path(path).is_file():
                    written = Path(path).stat().st_mtime
                    if self._files.get(path, (None,))[0] != written:
                        self._files[path] = (written, self._saved["step"])

    def _end(self, trainer: Trainer, numbers: Mapping[str, float] | None = None) -> None:
        self._waits = False
        if self._guest is not None and self._guest.end_step(numbers or {}):
            self._forget_best(trainer)
            self._is_other = True

    def _forget_best(self, trainer: Trainer) -> None:
        """What is measured from now on is of another network, so that nothing from before is its best."""
        self._note_files(trainer)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
                callback.best_k_models = {}
                callback.best_model_path = callback.kth_best_model_path = ""
                callback.best_model_score = None

    def _check(self, trainer: Trainer) -> None:
        count = sum(isinstance(other, EsperCallback) for other in trainer.callbacks)
        refuse_twice(self.session, count)
        refuse_way("Trainer", *_unknown_way(trainer.strategy))
        if self._network and isinstance(trainer.strategy, DDPStrategy):
            raise ConfigError(
                f"Several processes train the module as a whole, and network={self._network!r} names a part "
                "of it. Nothing was changed. Leave `network` out, or train with one process."
            )


def _unknown_way(strategy: Strategy) -> tuple[str, str]:
    """How several processes or cards train what cannot be followed, and the way out; both empty if it can."""
    if not isinstance(strategy, ParallelStrategy):
        return "", ""
    if not isinstance(strategy, DDPStrategy) or isinstance(strategy, DeepSpeedStrategy):
        return type(strategy).__name__, BY_HAND
    if isinstance(strategy.launcher, _MultiProcessingLauncher):
        return "processes that hand back nothing but weights", 'Say strategy="ddp", in a script.'
    return "", ""


def _optimizer_of(trainer: Trainer, network: nn.Module) -> Optimizer:
    """The one optimizer that trains the network."""
    own = {id(parameter) for parameter in network.parameters()}
    ours: list[Optimizer] = [
        optimizer
        for optimizer in trainer.optimizers
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"])
    ]
    if len(ours) != 1:
        raise ConfigError(
            f"{len(ours)} optimizers train this {type(network).__name__}, and Esper follows one. Nothing was "
            "changed. Say which part of the module is pruned, EsperCallback(network='generator'): a part "
            "that one optimizer trains alone."
        )
    return ours[0]


def _loss_of(module: LightningModule) -> Callable[[Any, Any], Tensor]:
    """The one loss of `torch.nn` that the module holds."""
    losses = [part for part in module.modules() if type(part).__module__ == "torch.nn.modules.loss"]
    if len(losses) == 1:
        only: nn.Module = losses[0]
        return only
    raise ConfigError(
        f"This {type(module).__name__} holds {len(losses)} losses of torch.nn, and Esper must know what its "
        "training step takes. Nothing was changed. Give EsperCallback(loss=...), a function of what the "
        "network gives and the target, for example loss=torch.nn.functional.cross_entropy."
    )


def _held_out(trainer: Trainer, wish: Wish) -> list[Any]:
    """A few batches that training never sees, as the validation data yields them."""
    probe = wish.probe
    if probe is None:
        if trainer.enable_validation:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loader = trainer.val_dataloaders
        loader = loader[0] if isinstance(loader, (list, tuple)) and loader else loader
        if not loader:
            raise ConfigError(
                "There is no held-out data to decide by: this training has no validation data. Nothing was "
                "changed. Give some, or EsperCallback(probe=...), batches that training never sees."
            )
        probe = loader
        if isinstance(loader, DataLoader):  # without the workers of the original
            probe = DataLoader(loader.dataset, loader.batch_size or 1, collate_fn=loader.collate_fn)
    batches = first_batches(probe, wish.probe_samples, samples)
    if not batches:
        raise ConfigError("The held-out data holds no batch. Nothing was changed.")
    return [tuple(batch) if isinstance(batch, list) else batch for batch in batches]


def _metric_of(trainer: Trainer, wish: Wish) -> tuple[str, bool]:
    """What decisions are made by, and whether higher is better."""
    name, is_higher_better = wish.metric, wish.higher_is_better
    if name is None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
                mode = callback.mode == "max" if is_higher_better is None else is_higher_better
                return callback.monitor, mode
        return FROM_PROBE, False
    if is_higher_better is None:
        is_higher_better = direction_of(name) is not False
    return name, is_higher_better


def _period_of(trainer: Trainer) -> int:
    """Optimizer steps between two validations, or a part of the run without any."""
    batches, every = trainer.val_check_batch, trainer.check_val_every_n_epoch
    accumulated = trainer.accumulate_grad_batches
    if trainer.enable_validation and batches is not None and batches != math.inf:
        if every is not None and batches == trainer.num_training_batches:
            return int(math.ceil(batches / accumulated) * every)
        return max(int(batches) // int(accumulated), 1)
    steps = trainer.estimated_stepping_batches
    return max(int(steps) // PERIODS, 1) if 0 < steps < math.inf else 1000
