"""What optimizer and schedulers were built with: a resume puts into its place what the run goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from esper.checkpoint import HasStateDict
from esper.errors import CheckpointError
from esper.nissa import Event, given_events

_NO_SETTINGS = frozenset({"params", "state", "last_epoch", "base_lrs"})
"""What a `state_dict` holds beside settings; the base rates are the optimizer's."""


class Built:
    """The settings of an optimizer and its schedulers, as the script has built them.

    The schedule moves them, so that those of a checkpoint say nothing about the script. As it built them when
    the run began, they can be held against those of a script that resumes it. Where training has moved them
    already, as where a framework has loaded a checkpoint of its own, nothing is known of them.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[HasStateDict]) -> None:
        is_new = not optimizer.state and not any(getattr(one, "last_epoch", 0) > 0 for one in schedulers)
        self._parts: Sequence[Mapping[str, Any]] = [
            {
                "name": type(part).__name__,
                "settings": dict(_settings(part.state_dict())) if is_new and _has_settings(part) else {},
            }
            for part in (optimizer, *schedulers)
        ]

    def state(self) -> list[Mapping[str, Any]]:
        return list(self._parts)

    def check(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Refuses schedulers of another class: their states mean something else.

        Raises:
            CheckpointError: it names them.
        """
        theirs, mine = ([part["name"] for part in parts[1:]] for parts in (state, self._parts))
        if theirs != mine:
            raise CheckpointError(
                f"The run began with {' and '.join(theirs) or 'nothing'} as `scheduler=`, whose state the "
                f"checkpoint holds, and {' and '.join(mine) or 'nothing'} was given. Nothing was changed. "
                "Pass the same ones in the same order, or begin another run."
            )

    def load(self, state: Sequence[Mapping[str, Any]]) -> None:
        """What the run began with stays its beginning, however often it is resumed."""
        self._parts = state

    def otherwise(self, state: Sequence[Mapping[str, Any]] | None) -> list[Event]:
        """Tells what is not as when the run began, if anything is; older runs do not know how they began."""
        changes: list[str] = []
        for began, now in zip(state or (), self._parts, strict=state is not None):
            for path, value in now["settings"].items():
                was = began["settings"].get(path, value)
                name = path.rpartition(".")[2].removeprefix("initial_")
                change = f"{name} of {now['name']} is {value} and was {was}"
                if repr(was) != repr(value) and change not in changes:  # often the same in every group
                    changes.append(change)
        return [given_events.BuiltOtherwise(tuple(changes))] if changes else []


def _has_settings(part: object) -> bool:
    """Whether its `state_dict` holds settings: that of a sampler, say, does not."""
    return isinstance(part, (Optimizer, LRScheduler))


def _settings(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers, words and rows of them in a `state_dict`, by their place in it."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, Mapping):
        hidden = {"lr"} if "initial_lr" in value else set()  # a warm-up has moved it
        for key, inner in value.items():
            is_setting = key == "_schedulers" or not str(key).startswith("_")
            if is_setting and key not in _NO_SETTINGS | hidden:
                yield from _settings(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        if all(_is_plain(inner) for inner in value):
            yield path, list(value)
        else:
            for number, inner in enumerate(value):
                yield from _settings(inner, f"{path}.{number}")
    elif _is_plain(value):
        yield path, value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))
