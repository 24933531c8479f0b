"""What is torch's or the user's and has a `state_dict`, as parts that remember."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from esper.checkpoint.rng import Generator, capture_rng, check_rng, restore_rng
from esper.errors import CheckpointError


class HasStateDict(Protocol):
    """A scheduler, a GradScaler, or anything else with a state of its own, as torch has it."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


class Weights:
    """The parameters and buffers of a network, and the versions of its modules."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model

    def state(self) -> dict[str, Any]:
        tensors = self._model.state_dict()
        return {"tensors": tensors, "versions": dict(getattr(tensors, "_metadata", {}))}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses the tensors of another network by name."""
        wrong = misfits(state["tensors"], self._model.state_dict())
        if wrong:
            raise CheckpointError(
                f"The checkpoint is of another model, {len(wrong)} entries differ: {'; '.join(wrong[:5])}. "
                "Build the model as it was when it was saved (a cut model has to be cut again first)."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Copies into the tensors that there are; every parameter stays the object that it is."""
        values = self._model.state_dict()  # its type carries the module versions
        values.update(state["tensors"])
        if metadata := getattr(values, "_metadata", None):
            metadata.update(state["versions"])
        self._model.load_state_dict(values)


def misfits(saved: Mapping[str, Any], live: Mapping[str, Any], *, is_typed: bool = True) -> list[str]:
    """What keeps saved tensors from being loaded into these: a line for every name.

    Args:
        saved: from a checkpoint.
        live: those of now.
        is_typed: whether they keep the type that they have.
    """
    wrong = [f"{name} is missing here" for name in saved if name not in live]
    wrong += [f"{name} is not in the checkpoint" for name in live if name not in saved]
    for name, value in saved.items():
        mine = live.get(name)
        if not isinstance(value, torch.Tensor) or not isinstance(mine, torch.Tensor):
            continue
        if value.shape != mine.shape or (is_typed and value.dtype != mine.dtype):
            wrong.append(f"{name} is {_describe(value)} in the checkpoint and {_describe(mine)} here")
    return wrong


class OptimizerState:
    """The groups of an optimizer, and what it keeps of every parameter."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses other parameter groups."""
        theirs = [len(group["params"]) for group in state["param_groups"]]
        mine = [len(group["params"]) for group in self._optimizer.param_groups]
        if theirs != mine:
            raise CheckpointError(
                f"The checkpoint is of another optimizer: its groups have {theirs} parameters, those of this "
                f"{type(self._optimizer).__name__} have {mine}. Build the optimizer as it was when it was "
                "saved."
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Copies into the state tensors that there are, so far as they fit."""
        optimizer = self._optimizer
        former = {parameter: dict(values) for parameter, values in optimizer.state.items()}
        optimizer.load_state_dict(dict(state))
        live = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        for parameter, number in zip(live, numbers, strict=True):
            for key, value in state["state"].get(number, {}).items():
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


class Schedulers:
    """Learning-rate schedulers, and whatever else is given beside them, in their order.

    A further optimizer among them is loaded as an optimizer is, with its bits as they were saved.
    """

    def __init__(self, schedulers: Sequence[HasStateDict]) -> None:
        self._schedulers = tuple(schedulers)

    def state(self) -> list[dict[str, Any]]:
        return [scheduler.state_dict() for scheduler in self._schedulers]

    def check(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Refuses another number of them."""
        if len(state) != len(self._schedulers):
            raise CheckpointError(
                f"The checkpoint holds {len(state)} schedulers, and {len(self._schedulers)} were given. Pass "
                "the same ones in the same order. Nothing was changed."
            )

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        for scheduler, saved in zip(self._schedulers, state, strict=True):
            is_plain = {"state", "param_groups"} <= saved.keys()  # a wrapper may have a form of its own
            if is_plain and isinstance(scheduler, torch.optim.Optimizer):
                OptimizerState(scheduler).load(saved)
                continue
            scheduler.load_state_dict(copy.deepcopy(dict(saved)))


class Scaler:
    """The GradScaler of mixed precision, where there is one."""

    def __init__(self, scaler: HasStateDict | None) -> None:
        self._scaler = scaler

    def state(self) -> dict[str, Any] | None:
        return None if self._scaler is None else self._scaler.state_dict()

    def check(self, state: Mapping[str, Any] | None) -> None:
        """Refuses one where there was none, and none where there was one."""
        if (state is None) != (self._scaler is None):
            held, given = ("no scaler", "one") if state is None else ("a scaler", "none")
            raise CheckpointError(
                f"The checkpoint holds {held}, and {given} was given. Pass what was given when it was saved. "
                "Nothing was changed."
            )

    def load(self, state: Mapping[str, Any] | None) -> None:
        if self._scaler is not None and state is not None:
            self._scaler.load_state_dict(copy.deepcopy(dict(state)))


class Randomness:
    """Every source of randomness: the global ones, and those that training draws from beside them."""

    def __init__(self, generators: Mapping[str, Generator]) -> None:
        self._generators = dict(generators)

    def state(self) -> dict[str, Any]:
        return capture_rng(self._generators)

    def check(self, state: Mapping[str, Any]) -> None:
        check_rng(state, self._generators)

    def load(self, state: Mapping[str, Any]) -> None:
        restore_rng(state, self._generators)


def _describe(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
