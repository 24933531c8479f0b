"""A training loop with Esper in it: epochs, optimizer steps, evaluation, and what a checkpoint decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from esper.anatomy.graph import bare
from esper.batches import device_of, on_device, plain, split_sample
from esper.errors import ConfigError
from esper.session import Result, Session, attach
from esper.tolaria.recomputed import Recomputed
from esper.tolaria.settings import LoopSettings
from esper.urabrask import evaluate, run_live

Metrics = Mapping[str, float]
"""What was measured after an epoch, by name."""

Told = Callable[[int, Metrics], None]
"""Hears of every epoch: its number, and what was measured."""


class Trainer:
    """Trains a network from its beginning, or from where the run in `run_dir` stopped, and finishes it."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        loss: Callable[[Any, Any], Tensor],
        train: Iterable[Any],
        probe: Iterable[Any],
        epochs: int,
        run_dir: str | Path,
        test: Iterable[Any] | None = None,
        metric: str = "accuracy",
        higher_is_better: bool | None = None,
        measure: Callable[[nn.Module], Metrics] | None = None,
        scheduler: Any = None,
        scheduled: Literal["epoch", "step"] = "epoch",
        loop: LoopSettings | Mapping[str, Any] | None = None,
        **given: Any,
    ) -> None:
        """Nothing is trained before `fit`.

        Args:
            model: the network, on its device; batches are brought there.
            optimizer: trains it.
            loss: `loss(output, target)`, a scalar.
            train: batches `(input, target)` that can be gone through again in every epoch.
            probe: held-out batches: decisions rest on them, and the metric is measured on them.
            epochs: how many.
            run_dir: where checkpoints and the report go; a run that is there goes on.
            test: batches that no decision sees, measured after every epoch as well, under `test ...`.
            metric: what decisions are made by: "accuracy", "loss", or a name that `measure` gives.
            higher_is_better: its direction; None: yes, unless it is "loss".
            measure: takes the network in eval mode, without gradients, and gives what it is worth; None: loss
                and accuracy on `probe`.
            scheduler: of the learning rate.
            scheduled: after what it makes its step.
            loop: how steps are made: `accumulate`, `clip`, `precision`, `segments`.
            given: whatever else `esper.attach` takes: `config`, `teacher`, `policy`, `companions`, `sinks`.

        Raises:
            ConfigError: an argument is not what is expected; the message names it.
        """
        for name, batches in (("train", train), ("probe", probe), ("test", test)):
            _check_batches(name, batches)
        if "scaler" in given or "resume" in given:
            raise ConfigError(
                "A Trainer makes its own GradScaler (precision = 'float16'), and goes on with a run that is "
                "there: leave scaler and resume away."
            )
        self.model, self.optimizer, self.loss = model, optimizer, loss
        self.train, self.probe, self.test = train, probe, test
        self.epochs, self.run_dir, self.metric = epochs, Path(run_dir), metric
        self.scheduler, self._scheduled, self._measure = scheduler, scheduled, measure
        self.loop = LoopSettings.of(loop)
        self._recomputed = None if self.loop.segments is None else Recomputed(model, self.loop.segments)
        self._higher_is_better = metric != "loss" if higher_is_better is None else higher_is_better
        self._given = given
        self._device = device_of(model)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=self.loop.precision == "float16")
        self.session: Session | None = None
        """What Esper does in the run; None before `fit`."""

    def fit(self, told: Told = lambda *_: None) -> Result:
        """Trains what is left of the run, and finishes it.

        Whatever ends it early, an interrupt or an error in a function of yours, lets go of the run: the next
        Trainer on the same directory goes on from its newest checkpoint.

        Args:
            told: hears of every epoch.

        Raises:
            ConfigError: the metric is not among what was measured.
            CheckpointError: the run directory cannot be used, or its run is finished.
        """
        session = self.session = self._attached()
        try:
            while session.epoch < self.epochs:
                self._epoch(session)
                metrics = self._measured()
                session.end_epoch(**metrics)
                told(session.epoch, metrics)
            return session.finish()
        except BaseException:
            session.detach()  # so that the run can be resumed at once
            raise

    def _attached(self) -> Session:
        sample = next(iter(self.probe), None)
        if sample is None:
            raise ConfigError("probe holds no batch at all; expected at least one.")
        return attach(
            self.model,
            self.optimizer,
            loss=self.loss,
            sample=on_device(sample, self._device),
            probe=self.probe,
            metric=self.metric,
            higher_is_better=self._higher_is_better,
            run_dir=self.run_dir,
            epochs=self.epochs,
            scheduler=self.scheduler,
            scaler=self._scaler if self._scaler.is_enabled() else None,
            resume=True,
            **self._given,
        )

    def _epoch(self, session: Session) -> None:
        self.model.train()
        for batches in _in_groups(self.train, self.loop.accumulate):
            self.optimizer.zero_grad()
            for batch in batches:
                # The mean over the batches of a step, however many there are.
                self._scaler.scale(self._loss_of(session, batch) / len(batches)).backward()
            if self.loop.clip is not None:
                self._scaler.unscale_(self.optimizer)
                clip_grad_norm_(self.model.parameters(), self.loop.clip)
            self._scaler.step(self.optimizer)
            self._scaler.update()
            if self.scheduler is not None and self._scheduled == "step":
                self.scheduler.step()
        if self.scheduler is not None and self._scheduled == "epoch":
            self.scheduler.step()

    def _loss_of(self, session: Session, batch: Any) -> Tensor:
        """Of one batch, with what seeds and a teacher add to it."""
        network = bare(self.model)  # whatever is around it takes anything
        batch = on_device(plain(batch, network), self._device)
        args, kwargs, target = split_sample(batch, with_target=True, model=network)
        with self._autocast():
            with self._recomputed or nullcontext():
                output = self.model(*args, **kwargs)
            answer: Tensor = session.loss(output, target, kwargs or args)
        return answer

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = getattr(torch, self.loop.precision)
        return torch.autocast(self._device.type, dtype=kind, enabled=kind is not torch.float32)

    def _measured(self) -> Metrics:
        self.model.eval()
        if self._measure is not None:
            with torch.no_grad():
                metrics = dict(self._measure(self.model))
        else:
            metrics = self._quality(self.probe)
        if self.test is not None:
            metrics |= {f"test {name}": value for name, value in self._quality(self.test).items()}
        if self.metric not in metrics:
            raise ConfigError(
                f"The metric {self.metric!r} was not measured; there is "
                f"{', '.join(map(repr, metrics)) or 'none'}. "
                "Accuracy needs numbers of classes as targets, and scores with one axis more as outputs: use "
                "metric='loss', or give measure=, a function of the network that returns it."
            )
        return metrics

    def _quality(self, batches: Iterable[Any]) -> dict[str, float]:
        known = (plain(batch, bare(self.model)) for batch in batches)
        with self._autocast():
            quality = evaluate(run_live(self.model, self.loss), known)
        found = {"loss": quality.loss, "accuracy": quality.accuracy}
        return {name: value for name, value in found.items() if value is not None}


def _in_groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """As many at a time; the last ones may be fewer."""
    left = iter(batches)
    while group := list(islice(left, size)):
        yield group


def _check_batches(name: str, batches: Any) -> None:
    if batches is not None and (isinstance(batches, Iterator) or not isinstance(batches, Iterable)):
        raise ConfigError(
            f"{name} is a {type(batches).__name__}; expected batches that can be gone through again in every "
            "epoch: a DataLoader or a list, no generator."
        )
