"""Ways through the same training: plainly, with Esper's defaults, cut by a peer, or narrow from birth."""

from __future__ import annotations

import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import esper
from esper.leyline import encode
from one_run_tasks import PEER_EPOCH, Clock
from pretrained_networks.peer import cut_on_the_way
from strangers_runs.record import LONGEST, Listener, Record
from strangers_runs.run import Run, in_batches

CUT_SECONDS = 120.0
"""Of the processor, after which a cut by the peer counts as one that never ends."""


class Twin:
    """A training by itself: its network, its optimizer, and what surrounds them.

    Attributes:
        kept: the network that is evaluated and judged: the trained one, or the mean of its weights.
    """

    def __init__(self, run: Run, seed: int, record: Record, clock: Clock) -> None:
        self.run, self.seed, self.record, self.clock = run, seed, record, clock
        self.model = run.network()
        self.equip()

    def equip(self) -> None:
        """Optimizer, schedule and mean of the weights for the network as it is."""
        run = self.run
        self.optimizer = run.optimizer(self.model)
        total = run.epochs * run.steps
        self.scheduler = run.scheduler(self.optimizer, total) if run.scheduler else None
        self.mean: AveragedModel | None = None
        if run.decay is not None:
            rule = get_ema_multi_avg_fn(run.decay)
            self.mean = AveragedModel(self.model, multi_avg_fn=rule, use_buffers=True)

    @property
    def kept(self) -> nn.Module:
        return self.model if self.mean is None else self.mean.module

    def begin(self) -> None:
        """Before the first step."""

    def end_epoch(self, number: int, quality: float | None) -> bool:  # noqa: ARG002
        """After an epoch, with what its owner measured; whether the network lost something."""
        return False

    def finish(self) -> bool:
        """After the last one; whether the network lost something."""
        return False


class WithEsper(Twin):
    """Default settings, a target, and what any user gives to `attach`."""

    def begin(self) -> None:
        run = self.run
        self.folder = tempfile.TemporaryDirectory()
        more: dict[str, Any] = {}
        if self.scheduler is not None:
            more["scheduler"] = self.scheduler
        if self.mean is not None:
            more["companions"] = self.mean
        if run.says_epochs:
            more["epochs"] = run.epochs
        with self._stalled("attach"):
            self.session = esper.attach(
                self.model,
                self.optimizer,
                loss=run.loss,
                sample=run.epoch(self.seed, 0)[0],
                probe=in_batches(run.data.probe, run.batch),
                metric=run.metric,
                higher_is_better=not run.is_loss,
                run_dir=f"{self.folder.name}/run",
                config=esper.Config.model_validate({"pruning": {"target": {"flops": run.target}}}),
                **more,
            )
        self.record.events += [(0, "note", note) for note in self.session.log.notes]
        self.listener = Listener(self.record)
        self.session.log.telling.sinks.append(self.listener)

    def end_epoch(self, number: int, quality: float | None) -> bool:
        self.listener.epoch = number
        known = len(self.session.log.marks)
        with self._stalled("end_epoch"):
            if quality is None:
                self.session.end_epoch()
            else:
                self.session.end_epoch(**{self.run.metric: quality})
        return self._has_lost(known)

    def finish(self) -> bool:
        known = len(self.session.log.marks)
        with self._stalled("finish"):
            result = self.session.finish(latency=False)
        record, report = self.record, result.report
        record.notes = [note[:LONGEST] for note in report.notes]
        record.why = next((note for note in report.notes if "target was missed" in note.lower()), "")
        record.esper_share = 1 - report.flops_after / report.flops_before
        record.costs = {} if report.overhead is None else encode(report.overhead)
        self.folder.cleanup()
        return self._has_lost(known)

    def _has_lost(self, known: int) -> bool:
        return any(mark.kind in ("mask", "cut") for mark in self.session.log.marks[known:])

    @contextmanager
    def _stalled(self, call: str) -> Iterator[None]:
        begun = time.perf_counter()
        with self.clock:
            yield
        self.record.stall(call, time.perf_counter() - begun)


class Peer(Twin):
    """Torch-Pruning's Taylor scores after 40 % of the epochs; then a new optimizer, at the same place."""

    def end_epoch(self, number: int, quality: float | None) -> bool:  # noqa: ARG002
        run = self.run
        if number != max(1, round(PEER_EPOCH * run.epochs)):
            return False
        with self.clock, _at_most(CUT_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the new schedule is told at which step it is
            probe = in_batches(run.data.probe, run.batch)
            self.model = cut_on_the_way(
                self.model,
                probe,
                run.loss,
                results=run.results,
                heads=run.heads,
                share=run.target,
                round_to=run.round_to,
            )
            self.equip()
            if self.scheduler is not None:
                for _ in range(number * run.steps):
                    self.scheduler.step()
        return True


class Narrow(Twin):
    """The network that Esper's run ends with, trained from its first step: what its widths alone give."""

    def become(self, model: nn.Module) -> None:
        """Takes this network, and forgets what it has learned.

        Raises:
            TypeError: a module of it does not say how it is born.
        """
        for name, module in model.named_modules():
            born = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if born is not None:
                born()
            elif any(True for _ in module.parameters(recurse=False)):
                raise TypeError(f"{name or 'the network'} ({type(module).__name__}) cannot be born again")
        self.model = model.requires_grad_(True)
        self.equip()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TimeoutError when the processor has worked so long inside the block."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"the cut had not ended after {seconds:g} s of the processor")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


ARMS: dict[str, type[Twin]] = {"twin": Twin, "esper": WithEsper, "peer": Peer, "narrow": Narrow}
