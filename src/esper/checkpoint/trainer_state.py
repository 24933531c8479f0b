"""Everything that training needs to go on as if it had never stopped: captured, stored, put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from esper.checkpoint.codec import decode, encode, from_json, to_json
from esper.checkpoint.content import FileContent
from esper.checkpoint.references import CheckpointRef, load_tensors
from esper.checkpoint.rng import NO_GENERATORS, Generator, capture_rng, restore_rng
from esper.errors import CheckpointCorrupt, CheckpointError

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
TREE_FILE = "trainer.json"
VERSION = 1


class Stateful(Protocol):
    """A scheduler, a GradScaler, or anything else with a state of its own."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


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

    def files(self) -> dict[str, FileContent]:
        """The files of a checkpoint that holds this state.

        `model.safetensors` holds the model's tensors under their own names, `optimizer.safetensors` all
        others, `trainer.json` everything that is no tensor.

        Raises:
            CheckpointError: a value cannot be stored; its path is named.
        """
        model = encode(dict(self.model))
        rest = encode({name: _plain(getattr(self, name)) for name in _REST})
        tree = {"version": VERSION, "model": model.tree, "rest": rest.tree}
        return {MODEL_FILE: model.tensors, OPTIMIZER_FILE: rest.tensors, TREE_FILE: to_json(tree)}


_REST = ("step", "epoch", "model_metadata", "optimizer", "schedulers", "scaler", "rng", "extra")


def capture_trainer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    epoch: int,
    schedulers: Sequence[Stateful] = (),
    scaler: Stateful | None = None,
    generators: Mapping[str, Generator] = NO_GENERATORS,
    extra: Mapping[str, Any] | None = None,
) -> TrainerState:
    """The state of a run between two steps; nothing is copied, so save or stage it before the next step."""
    state = model.state_dict()
    return TrainerState(
        step=step,
        epoch=epoch,
        model=state,
        model_metadata=dict(getattr(state, "_metadata", {})),
        optimizer=optimizer.state_dict(),
        schedulers=[scheduler.state_dict() for scheduler in schedulers],
        scaler=None if scaler is None else scaler.state_dict(),
        rng=capture_rng(generators),
        extra=dict(extra or {}),
    )


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
    rest = decode(tree["rest"], load_tensors(checkpoint.file(OPTIMIZER_FILE))) if is_ours else None
    if not isinstance(model, dict) or not isinstance(rest, dict) or set(rest) != set(_REST):
        raise CheckpointCorrupt(f"{checkpoint.path / TREE_FILE} is no trainer state of version {VERSION}.")
    return TrainerState(model=model, **rest)


def restore_trainer(
    state: TrainerState,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    schedulers: Sequence[Stateful] = (),
    scaler: Stateful | None = None,
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
    _check_model(state.model, model)
    _check_optimizer(state.optimizer, optimizer)
    if len(state.schedulers) != len(schedulers) or (state.scaler is None) != (scaler is None):
        raise CheckpointError(
            f"The checkpoint holds {len(state.schedulers)} schedulers and {_count(state.scaler)} scaler, and "
            f"{len(schedulers)} and {_count(scaler)} were given. Pass the same ones in the same order."
        )
    if with_rng:  # first, because it refuses what does not fit
        restore_rng(state.rng, generators)
    _restore_model(state, model)
    _restore_optimizer(state.optimizer, optimizer)
    for scheduler, saved in zip(schedulers, state.schedulers, strict=True):
        scheduler.load_state_dict(copy.deepcopy(dict(saved)))
    if scaler is not None and state.scaler is not None:
        scaler.load_state_dict(copy.deepcopy(dict(state.scaler)))


def _restore_model(state: TrainerState, model: torch.nn.Module) -> None:
    values = model.state_dict()  # its type carries the module versions
    values.update(state.model)
    if metadata := getattr(values, "_metadata", None):
        metadata.update(state.model_metadata)
    model.load_state_dict(values)


def _restore_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    former = {parameter: dict(values) for parameter, values in optimizer.state.items()}
    optimizer.load_state_dict(dict(saved))
    live = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    for parameter, number in zip(live, numbers, strict=True):
        for key, value in saved["state"].get(number, {}).items():
            loaded = optimizer.state[parameter][key]
            optimizer.state[parameter][key] = _settle(value, loaded, former.get(parameter, {}).get(key))


def _settle(saved: Any, loaded: Any, former: Any) -> Any:
    """The state value to use: the former tensor with the saved bits, or a copy that no file backs.

    `load_state_dict` casts a state tensor to its parameter's type, which would lose the bits of a float32
    moment of a bfloat16 parameter: the saved type stays.
    """
    if not isinstance(saved, torch.Tensor):
        return copy.deepcopy(loaded)
    fits = isinstance(former, torch.Tensor) and (former.shape, former.dtype, former.device) == (
        saved.shape,
        saved.dtype,
        loaded.device,
    )
    if not fits:
        return saved.to(loaded.device, copy=True)
    with torch.no_grad():
        return former.copy_(saved)


def _check_model(saved: Mapping[str, Any], model: torch.nn.Module) -> None:
    live = model.state_dict()
    wrong = [f"{name} is missing here" for name in saved if name not in live]
    wrong += [f"{name} is not in the checkpoint" for name in live if name not in saved]
    for name, value in saved.items():
        mine = live.get(name)
        if not isinstance(value, torch.Tensor) or not isinstance(mine, torch.Tensor):
            continue
        if (value.shape, value.dtype) != (mine.shape, mine.dtype):
            wrong.append(f"{name} is {_describe(value)} in the checkpoint and {_describe(mine)} here")
    if wrong:
        raise CheckpointError(
            f"The checkpoint is of another model, {len(wrong)} entries differ: {'; '.join(wrong[:5])}. Build "
            f"the model as it was when it was saved (a cut model has to be cut again first)."
        )


def _check_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    theirs = [len(group["params"]) for group in saved["param_groups"]]
    mine = [len(group["params"]) for group in optimizer.param_groups]
    if theirs != mine:
        raise CheckpointError(
            f"The checkpoint is of another optimizer: its groups have {theirs} parameters, those of this "
            f"{type(optimizer).__name__} have {mine}. Build the optimizer as it was when it was saved."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) else value


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _count(thing: object) -> str:
    return "no" if thing is None else "a"
