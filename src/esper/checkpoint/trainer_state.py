"""What a loop without a session needs to go on as if it had never stopped: captured, stored, put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from esper.checkpoint.codec import decode, encode, from_json, to_json
from esper.checkpoint.content import FileContent
from esper.checkpoint.file_ref import load_tensors
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.rng import NO_GENERATORS, Generator
from esper.checkpoint.state import Entry, Memory
from esper.checkpoint.trainer_parts import (
    HasStateDict,
    OptimizerState,
    Randomness,
    Scaler,
    Schedulers,
    Weights,
)
from esper.errors import CheckpointCorrupt

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
IMPORTANCE_FILE = "importance.safetensors"
TREE_FILE = "trainer.json"
VERSION = 1


@dataclass(frozen=True)
class TrainerState:
    """A training run between two steps. Tensors are live until they are saved, and mapped after loading."""

    step: int
    epoch: int
    model: Mapping[str, Any]
    """The model's `state_dict`: tensors by name."""
    model_metadata: Mapping[str, Any]
    """Versions of the modules, which `load_state_dict` consults."""
    optimizer: Mapping[str, Any]
    schedulers: Sequence[Mapping[str, Any]]
    scaler: Mapping[str, Any] | None
    rng: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs to the run: masks, position in the data, plan history."""

    @classmethod
    def of(cls, step: int, epoch: int, parts: Mapping[str, Any]) -> TrainerState:
        """From the states of parts by name; those that are no trainer's go into `extra`."""
        own = {name: parts[name] for name in _PARTS}
        weights = own.pop("model")
        extra = {name: state for name, state in parts.items() if name not in _PARTS}
        return cls(step, epoch, weights["tensors"], weights["versions"], **own, extra=extra)

    def parts(self) -> dict[str, Any]:
        """The states of the parts by name, as they were given to `of`."""
        weights = {"tensors": self.model, "versions": self.model_metadata}
        own = {name: getattr(self, name) for name in _PARTS if name != "model"}
        return {**self.extra, "model": weights, **own}

    def files(self) -> dict[str, FileContent]:
        """The files of a checkpoint that holds this state.

        `model.safetensors` holds the model's tensors under their own names, `optimizer.safetensors` all
        others, `trainer.json` everything that is no tensor. What a part called "tracker" has measured is in
        `importance.safetensors`, which is always encrypted, as `trainer.json` is.

        Raises:
            CheckpointError: a value cannot be stored; its path is named.
        """
        model = encode(dict(self.model))
        rest = encode({name: _plain(getattr(self, name)) for name in _REST})
        tree = {"version": VERSION, "model": model.tree, "rest": rest.tree}
        apart = {name: tensor for name, tensor in rest.tensors.items() if name.startswith(_IMPORTANCE)}
        others = {name: tensor for name, tensor in rest.tensors.items() if name not in apart}
        files: dict[str, FileContent] = {MODEL_FILE: model.tensors, OPTIMIZER_FILE: others}
        return {**files, TREE_FILE: to_json(tree), **({IMPORTANCE_FILE: apart} if apart else {})}


_IMPORTANCE = "extra.tracker."
_PARTS = ("model", "optimizer", "schedulers", "scaler", "rng")
_REST = ("step", "epoch", "model_metadata", "optimizer", "schedulers", "scaler", "rng", "extra")


def capture_trainer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    epoch: int,
    schedulers: Sequence[HasStateDict] = (),
    scaler: HasStateDict | None = None,
    generators: Mapping[str, Generator] = NO_GENERATORS,
    extra: Mapping[str, Any] | None = None,
) -> TrainerState:
    """The state of a run between two steps; nothing is copied, so save or stage it before the next step."""
    trainer = _trainer(model, optimizer, schedulers, scaler, Randomness(generators))
    return replace(TrainerState.of(step, epoch, trainer.state()), extra=dict(extra or {}))


def load_trainer(checkpoint: CheckpointRef) -> TrainerState:
    """Reads the state back from a checkpoint; every file is verified first, tensors are mapped.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved, or not a trainer's state.
        CheckpointMissing: the checkpoint holds no trainer's state.
    """
    tree = from_json(checkpoint.file(TREE_FILE).read_bytes())
    is_ours = (
        isinstance(tree, dict) and set(tree) == {"version", "model", "rest"} and tree["version"] == VERSION
    )
    model = decode(tree["model"], load_tensors(checkpoint.file(MODEL_FILE))) if is_ours else None
    rest = decode(tree["rest"], _rest_tensors(checkpoint)) if is_ours else None
    if not isinstance(model, dict) or not isinstance(rest, dict) or set(rest) != set(_REST):
        raise CheckpointCorrupt(f"{checkpoint.path / TREE_FILE} is no trainer state of version {VERSION}.")
    return TrainerState(model=model, **rest)


def _rest_tensors(checkpoint: CheckpointRef) -> dict[str, torch.Tensor]:
    """What is not the model's; earlier checkpoints have all of it in one file."""
    names = [OPTIMIZER_FILE, *([IMPORTANCE_FILE] if IMPORTANCE_FILE in checkpoint.files else [])]
    return {key: tensor for name in names for key, tensor in load_tensors(checkpoint.file(name)).items()}


def restore_trainer(
    state: TrainerState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    schedulers: Sequence[HasStateDict] = (),
    scaler: HasStateDict | None = None,
    generators: Mapping[str, Generator] = NO_GENERATORS,
    with_rng: bool = True,
) -> None:
    """Copies a state into the live objects; every parameter stays the object that it is.

    Fit is checked first: when this raises, nothing was changed.

    Args:
        state: from `load_trainer` or `capture_trainer`.
        model: has the structure it had when the state was captured.
        optimizer: has the same parameter groups.
        schedulers: the same, in the same order.
        scaler: the GradScaler, if there was one.
        generators: the same names as at capture.
        with_rng: False leaves all randomness alone; the run then does not continue bit for bit.

    Raises:
        CheckpointError: the state is of another model, optimizer or set-up; what differs is named.
    """
    randomness = Randomness(generators) if with_rng else None
    _trainer(model, optimizer, schedulers, scaler, randomness).load(state.parts())


def _trainer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    schedulers: Sequence[HasStateDict],
    scaler: HasStateDict | None,
    randomness: Randomness | None,
) -> Memory:
    return Memory(
        [
            Entry("model", Weights(model)),
            Entry("optimizer", OptimizerState(optimizer)),
            Entry("schedulers", Schedulers(schedulers)),
            Entry("scaler", Scaler(scaler)),
            *([] if randomness is None else [Entry("rng", randomness)]),
        ]
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else value
