"""What a session remembers, in one list: a checkpoint holds the state of every part under its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor, nn

from esper.anatomy.graph import loss_tensors, named_tensors
from esper.checkpoint import (
    Entry,
    Memory,
    OptimizerState,
    Randomness,
    Record,
    Scaler,
    Schedulers,
    Weights,
    misfits,
)
from esper.emrakul import Trial
from esper.emrakul.cycle import CycleRunner
from esper.errors import CheckpointError
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork, PlainCopy
from esper.session.admission import RunRequest
from esper.session.built import Built
from esper.session.growing import Growing
from esper.session.ledger import Ledger
from esper.session.log import RunLog
from esper.session.metrics import Metrics
from esper.session.pool import worker_rows
from esper.session.teaching import Teaching
from esper.session.terms import Terms
from esper.workers import WorkerPool

SHARED = (
    "terms",
    "criterion",
    "schedulers",
    "scaler",
    "structure",
    "model",
    "optimizer",
    "companions",
    "trainable",
    "masks",
    "progress",
)
"""What of the memory of rank 0 is that of every rank."""
RANDOM_OF_RANKS = "rng_of_ranks"
"""The name of what a checkpoint holds of each rank by itself."""


def given_entries(asked: RunRequest, terms: Terms) -> list[Entry]:
    """What a training script gives; a checkpoint can be held against it before anything is traced."""
    return [
        Entry("terms", terms),
        Entry("criterion", Criterion(asked.loss)),
        Entry("schedulers", Schedulers(asked.schedulers)),
        Entry("built", Built(asked.optimizer, asked.schedulers)),
        Entry("scaler", Scaler(asked.scaler)),
        Entry("rng", Randomness(asked.generators)),
    ]


def entries_of(
    given: Sequence[Entry],
    network: LiveNetwork,
    tracker: ImportanceTracker,
    growing: Growing,
    teaching: Teaching,
    trial: Trial,
    runner: CycleRunner,
    pool: WorkerPool | None,
    log: RunLog,
    metrics: Metrics,
    ledger: Ledger,
) -> list[Entry]:
    """The list. Whatever a session has to remember from now on is one more line in it."""
    return [
        *given,
        Entry("structure", Structure(network, tracker, growing), is_structure=True),
        Entry("model", Weights(network.model)),
        Entry("optimizer", OptimizerState(network.optimizer)),
        Entry("teacher", teaching, survives_rollback=True),
        Entry("companions", Companions(network)),
        Entry("trainable", Trainable(network)),
        Entry("masks", Masks(network)),
        Entry("tracker", tracker),
        Entry("progress", log.progress),
        Entry("metrics", metrics),
        Entry("log", log, survives_rollback=True),
        Entry("commands", ledger, survives_rollback=True),
        Entry("trial", trial),
        Entry("setbacks", trial.setbacks, survives_rollback=True),
        Entry("coordinator", runner, survives_rollback=True),
        Entry("workers", Record(lambda: [asdict(row) for row in worker_rows(pool)])),
        Entry("parameter_names", Record(network.parameter_names)),
    ]


def shared_memory_of(
    asked: RunRequest, terms: Terms, network: LiveNetwork, growing: Growing, log: RunLog
) -> Memory:
    """The list of a rank that follows: what it shares with rank 0, and its own random numbers."""
    return Memory(
        [
            *given_entries(asked, terms),
            Entry("structure", Structure(network, None, growing), is_structure=True),
            Entry("model", Weights(network.model)),
            Entry("optimizer", OptimizerState(network.optimizer)),
            Entry("companions", Companions(network)),
            Entry("trainable", Trainable(network)),
            Entry("masks", Masks(network)),
            Entry("progress", log.progress),
        ]
    )


class Structure:
    """What was cut from the network, what has grown on it and what is growing; who watches it follows."""

    def __init__(self, network: LiveNetwork, tracker: ImportanceTracker | None, growing: Growing) -> None:
        self._network, self._tracker, self._growing = network, tracker, growing

    def state(self) -> dict[str, Any]:
        return {**self._network.state(), "growing": self._growing.state()}

    def check(self, state: Mapping[str, Any]) -> None:
        self._network.check(state)
        self._growing.check(state.get("growing"))  # older runs did not grow

    def load(self, state: Mapping[str, Any]) -> None:
        before = self._network.anatomy
        self._growing.clear()
        self._network.load(state)
        self._growing.load(state.get("growing"))
        if self._tracker is not None and self._network.anatomy is not before:
            nothing = np.full(self._tracker.num_units, -1, np.int64)  # no unit is known to be one of before
            self._tracker.rebind(self._network.anatomy, self._network.named_parameters(), nothing)


class Criterion:
    """The loss, if it is a module: its tensors by the twin's names, and what else is in its `state_dict`."""

    def __init__(self, loss: Any) -> None:
        self._loss = loss if isinstance(loss, nn.Module) else nn.Module()

    def state(self) -> dict[str, Any]:
        held, own = self._loss.state_dict(), set(self._stored().values())
        rest = {name: value for name, value in held.items() if name not in own}
        return {"tensors": loss_tensors(self._loss), "rest": rest}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses other tensors by their shapes.

        Raises:
            CheckpointError: the run began with another criterion.
        """
        live, stored = loss_tensors(self._loss), self._stored()
        mine = _shapes({name: live[name] for name in stored})
        unstored = live.keys() - stored.keys()  # buffers that the module does not want stored
        theirs = _shapes({name: t for name, t in state["tensors"].items() if name not in unstored})
        if theirs != mine:
            raise CheckpointError(
                f"The checkpoint holds a loss with {theirs or 'no tensors'}, and the given one has "
                f"{mine or 'none'}. Nothing was changed. Give the criterion that the run began with, as "
                "`loss=`."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        tensors = {own: state["tensors"][name] for name, own in self._stored().items()}
        self._loss.load_state_dict({**tensors, **state["rest"]})

    def _stored(self) -> dict[str, str]:
        """The names of the tensors in its `state_dict`: the twin's, and for each its own."""
        kept = self._loss.state_dict()
        names = zip(loss_tensors(self._loss), named_tensors(self._loss), strict=True)
        return {name: own for name, own in names if own in kept}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


class Companions:
    """The modules that hold a copy of the network."""

    def __init__(self, network: LiveNetwork) -> None:
        self._network, self._modules = network, network.companions

    def state(self) -> list[dict[str, Any]]:
        self._network.masks.follow()
        return [module.state_dict() for module in self._modules]

    def check(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Refuses tensors that do not fit, by name."""
        for number, (module, saved) in enumerate(zip(self._modules, state, strict=True)):
            wrong = misfits(saved, module.state_dict(), is_typed=not isinstance(module, PlainCopy))
            if wrong:
                kind = "copy of plain tensors" if isinstance(module, PlainCopy) else type(module).__name__
                raise CheckpointError(
                    f"Companion {number}, a {kind}, is another one than in the checkpoint: "
                    f"{'; '.join(wrong[:5])}. Give the same ones in the same order as when the run began, as "
                    "`companions=`."
                )

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        for module, saved in zip(self._modules, state, strict=True):
            module.load_state_dict(saved)


class Trainable:
    """Which parameters are frozen by hand, by name."""

    def __init__(self, network: LiveNetwork) -> None:
        self._network = network

    def state(self) -> list[str]:
        parameters = self._network.named_parameters()
        return [name for name, parameter in parameters.items() if not parameter.requires_grad]

    def check(self, state: Sequence[str]) -> None:
        """Every parameter can be frozen."""

    def load(self, state: Sequence[str]) -> None:
        frozen = set(state)
        for name, parameter in self._network.named_parameters().items():
            if parameter.is_leaf:
                parameter.requires_grad_(name not in frozen)


class Masks:
    """Which units are masked, and the values under the mask."""

    def __init__(self, network: LiveNetwork) -> None:
        self._network = network

    def state(self) -> dict[str, Any]:
        masks = self._network.masks
        digest = self._network.anatomy.digest
        return {"anatomy": digest, "keep": masks.keep, "originals": masks.originals()}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses a mask that counts other units.

        Raises:
            CheckpointError: the structure reads otherwise than when the checkpoint was saved.
        """
        anatomy, keep = self._network.anatomy, np.asarray(state["keep"])
        is_same = state.get("anatomy", anatomy.digest) == anatomy.digest  # older runs do not say it
        if keep.size != anatomy.num_units or not (is_same or keep.all()):
            raise CheckpointError(
                f"The checkpoint masks {int((~keep).sum())} of {keep.size} units, and this network reads as "
                f"another structure, of {anatomy.num_units} units. Build the model exactly as for the first "
                "run, and resume with the Esper and the PyTorch that run.json names."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        self._network.renew_masks()
        self._network.masks.apply(np.asarray(state["keep"]), state["originals"])
