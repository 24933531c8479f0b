"""How Esper behaves in a loop that is not its user's own: looks that nobody notices, and a last word."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from esper.checkpoint import CheckpointCatalog, capture_rng, holds_checkpoints, open_key_ring, restore_rng
from esper.compaction import describe
from esper.errors import CheckpointError, ConfigError, RollbackExhausted
from esper.integrations.beginning import set_aside
from esper.integrations.several import is_first_rank
from esper.nissa import LoggerSink
from esper.session import FROM_PROBE, Result, Session

PERIODS = 20
"""Periods of a training that says nothing of evaluations."""
_LABEL = "framework"
_FEW = 5


@contextmanager
def unnoticed() -> Iterator[None]:
    """Runs a block and leaves the random numbers of Python, numpy and torch as they were."""
    before = capture_rng()
    try:
        yield
    finally:
        restore_rng(before)


def first_batches(batches: Iterable[Any], wanted: int, size: Callable[[Any], int]) -> list[Any]:
    """The first batches that together hold so many samples."""
    taken: list[Any] = []
    total = 0
    for batch in batches:
        taken.append(batch)
        total += size(batch)
        if total >= wanted:
            break
    return taken


def refuse_twice(session: Session | None, callbacks: int) -> None:
    """Raises if a callback has followed a training already, or has another one beside it.

    Raises:
        ConfigError: so it is.
    """
    if session is not None:
        raise ConfigError(
            "This EsperCallback has followed a training already, and a run is about one. Nothing was "
            "changed. Give the next training an EsperCallback of its own, with another run_dir."
        )
    if callbacks > 1:
        raise ConfigError(
            "This Trainer has two EsperCallbacks, and two would change the network under each other. "
            "Nothing was changed. Leave one."
        )


def refuse_strangers(run_dir: Path, step: int, loading: Loading | None, way_on: str) -> None:
    """Raises unless the framework's checkpoint and the run directory can be of one training.

    A run that was stopped before the framework had saved anything beside it, and before it had saved more
    than its own beginning, can be gone on with by nobody: it is set aside. Rank 0 looks for all.

    Args:
        run_dir: of the run that is to begin.
        step: at which the training begins.
        loading: saw the weights that were loaded.
        way_on: how a training goes on from a checkpoint of the framework.

    Raises:
        CheckpointError: there is a run already, or weights of other shapes came without one.
    """
    if not is_first_rank():
        return
    aside = set_aside(run_dir)
    if aside is not None:
        say(
            f"{run_dir} held a run that was stopped before it had saved more than its beginning, and before "
            f"the framework's first checkpoint: it begins anew, and nothing is lost (what there was is in "
            f"{aside}).",
        )
    if holds_checkpoints(run_dir):
        where = f"goes on from step {step}" if step else "begins at its first step"
        raise CheckpointError(
            f"{run_dir} holds a run already, and this training {where} without a checkpoint that belongs to "
            f"it. Nothing was changed. Go on with {way_on}, from a checkpoint that was saved under "
            "EsperCallback; where there is none, give another run_dir, or move this one away."
        )
    if loading is not None and loading.has_declined:
        raise CheckpointError(
            f"The checkpoint of step {step} is of a network of other shapes, and {run_dir} holds no run that "
            "says how it was cut. Give the run_dir that it was cut in."
        )


def say(text: str, *, is_problem: bool = False) -> None:
    """Tells people one sentence, as a session does; of several processes the first one does it."""
    if is_first_rank():
        LoggerSink(is_heard=True).write(logging.WARNING if is_problem else logging.INFO, text)


def say_few(periods: int, unit: int) -> None:
    """Tells people that there is little time to decide in."""
    if periods < _FEW:
        say(
            f"This training has {periods} period(s) of {unit} optimizer steps, and Esper decides once in "
            "each: too few to remove much. Evaluate more often, or give EsperCallback(every_n_steps=...).",
            is_problem=True,
        )


def check_beside(run_dir: Path, saved: Mapping[str, Any]) -> None:
    """Makes sure that a run holds the checkpoint that stood beside a framework's. Rank 0 looks for all.

    Raises:
        CheckpointError: it holds another one, or none.
    """
    if not is_first_rank():
        return
    if not holds_checkpoints(run_dir):
        raise CheckpointError(
            f"This training was followed by a run of Esper, and {run_dir} holds none. Nothing was changed. "
            "Give the run_dir of this training."
        )
    checkpoint = CheckpointCatalog(run_dir, open_key_ring(run_dir)).at(saved["step"])
    if checkpoint.digest != saved["digest"]:
        raise CheckpointError(
            f"{checkpoint.path} is not the checkpoint that stood beside the framework's: that had the digest "
            f"{saved['digest'][:16]}. Nothing was changed. Give the run_dir of this training."
        )


def _measures(numbers: Iterable[str]) -> list[str]:
    """Names of what was measured, without those of the time that it took."""
    of_time = ("epoch", "runtime", "per_second", "model_preparation_time")
    return sorted(name for name in numbers if not name.endswith(of_time)) or ["nothing but the time it took"]


class Loading:
    """Lets a network keep its weights where a framework loads those of other shapes; a run has the right.

    A training that goes on loads weights into a network as it was built, and the best ones at its end into
    one that may have been cut since. Only while `is_training` says so is anything kept from anybody.

    Args:
        networks: the network, and what holds copies of it.
    """

    def __init__(self, networks: Sequence[nn.Module], is_training: Callable[[], bool]) -> None:
        self.has_declined = False
        """Whether weights of other shapes came since this was asked for last."""
        self._is_training = is_training
        # A copy of the network (an average of its weights) is to have this hook as well.
        self._hooks = [network.register_load_state_dict_pre_hook(self._before) for network in networks]

    def stop(self) -> None:
        """From now on the network loads what it is given."""
        for hook in self._hooks:
            hook.remove()

    def _before(self, module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        if not self._is_training():
            return
        own = module.state_dict(prefix=prefix)
        if any(own[name].shape != value.shape for name, value in state_dict.items() if name in own):
            self.has_declined = True
            state_dict.update(own)


class Guest:
    """A session in a framework's loop.

    Attributes:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._structure = self._look()
        self._is_told = False  # that the metric is missing

    def end_step(self, numbers: Mapping[str, float]) -> bool:
        """Ends an optimizer step; says whether the network is masked or cut otherwise than before.

        Learning rates stay those of the framework, whose schedule does not go back with the network. A save
        that fails, or a way back that is not there, is told as a problem, and training goes on.
        """
        optimizer, step = self.session.optimizer, self.session.step
        rates = [group["lr"] for group in optimizer.param_groups]
        metrics: dict[str, Any] = {n: v for n, v in numbers.items() if n in (self.session.metric, "loss")}
        if self.session.metric not in (FROM_PROBE, *metrics):
            metrics = {}
            if numbers and not self._is_told:
                self._is_told = True
                say(
                    f"Decisions wait for {self.session.metric}, and what was evaluated is "
                    f"{', '.join(_measures(numbers))}. Let the framework measure it, or name one of these, "
                    "EsperCallback(metric=...).",
                    is_problem=True,
                )
        try:
            self.session.end_step(**metrics)
        except RollbackExhausted as failure:
            say(str(failure), is_problem=True)
        except CheckpointError:
            pass  # the session has told it
        if self.session.step < step:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        before, self._structure = self._structure, self._look()
        return before != self._structure

    def save(self, keep: Collection[int]) -> dict[str, Any] | None:
        """Saves beside a checkpoint of the framework and names what was saved; None if that failed.

        Of several processes the first one does it, alone: of the others there is nothing in it that the
        framework's checkpoint, or the end of the last period, has not.
        """
        if not is_first_rank():
            return None
        try:
            parts = self.session.parts
            saved = parts.saving.save_beside(parts.log.progress, _LABEL, keep)
        except CheckpointError as failure:
            say(f"No checkpoint of Esper stands beside that of the framework: {failure}", is_problem=True)
            return None
        return {"step": saved.step, "digest": saved.digest}

    def finish(self) -> Result | None:
        """Cuts, reports, and lets the network's configuration say its sizes; None if saving failed."""
        try:
            result = self.session.finish()
        except CheckpointError as failure:
            say(
                f"The network is trained and cut, and its last save failed: {failure} When there is space, "
                "callback.session.finish() saves and reports.",
                is_problem=True,
            )
            return None
        self._describe()
        say(str(replace(result, why="")))  # the session has said it
        return replace(result, model=self.session.network.model)

    def _describe(self) -> None:
        network = self.session.network
        if not network.changes:
            return
        units = np.arange(network.changes[-1].origin.size)  # of every unit at the end: its number before
        for change in reversed(network.changes):
            units = np.where(units >= 0, change.origin[units], -1)
        before = network.changes[0].before
        keep = np.zeros(before.num_units, np.bool_)
        keep[units[units >= 0]] = True
        with unnoticed():
            description = describe(network.model, before, keep, network.inputs)
        if description is not None and not description.is_complete:
            say(
                f"The configuration of this {type(network.model).__name__} cannot say what the network is "
                f"now ({description.why}), so from_pretrained cannot read what save_pretrained writes. "
                f"esper.load({str(self.session.run_dir)!r}, model=...) brings a fresh one into shape.",
                is_problem=True,
            )

    def _look(self) -> tuple[int, bytes]:
        """Names what is cut and masked."""
        network = self.session.network
        return len(network.changes), network.masks.keep.tobytes()
