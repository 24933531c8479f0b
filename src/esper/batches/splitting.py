"""What of a batch goes into a network, and what is the target: told by what its forward pass takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from esper.errors import ConfigError

Split = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional inputs, keyword inputs, and the target, which is None where there is none."""

_USUAL, _OTHERS = ("labels", "target"), ("targets", "label", "y")
"""Names of targets in a mapping; the others may as well be names of inputs."""


def split_sample(sample: Any, *, with_target: bool, model: nn.Module) -> Split:
    """Splits one batch into positional inputs, keyword inputs and target.

    `(x, y)` and `(a, b, y)` are inputs and target, and so is `((a, b), y)` unless the forward pass takes one
    argument only. A mapping is keyword inputs, with the target under `labels` or `target`, or under
    `targets`, `label` or `y` if the forward pass has no such argument; where it takes one argument and none
    of these names, the mapping is that argument. Anything else is the input. Without a target a tuple is the
    positional inputs.

    Args:
        sample: the batch.
        with_target: whether it holds a target.
        model: whose inputs they are.

    Raises:
        ConfigError: there is no target.
    """
    forms = list(splits(sample, with_target=with_target))
    return next((form for form in forms if _takes(model.forward, form)), forms[0])


def splits(sample: Any, *, with_target: bool) -> Iterator[Split]:
    """All ways to split one batch, whatever the network; the likeliest comes first.

    Raises:
        ConfigError: there is no target.
    """
    if isinstance(sample, Mapping):
        yield from _of_mapping(sample, with_target)
    elif not isinstance(sample, (tuple, list)):
        yield (sample,), {}, None
    elif not with_target:
        yield tuple(sample), {}, None
    elif len(sample) < 2:
        raise ConfigError(
            f"A sample with a loss must be (input, target); this one has {len(sample)} element(s). "
            "Give one batch as the data loader yields it."
        )
    else:
        for args, kwargs in _of_inputs(tuple(sample[:-1])):
            yield args, kwargs, sample[-1]


def plain(batch: Any, model: nn.Module) -> Any:
    """A batch of a named tuple or data class as what is known everywhere; any other batch as it is.

    A mapping, if the forward pass takes its fields by their names and a target is among them, else a tuple of
    the fields in their order.
    """
    named = _fields_of(batch)
    if named is None:
        return batch
    by_name = (form for form in _of_mapping(named, True) if form[1] and form[2] is not None)
    return named if any(_takes(model.forward, form) for form in by_name) else tuple(named.values())


def target_of(batch: Any) -> Any:
    """The target of one batch, whatever the network."""
    if isinstance(batch, Mapping):
        return batch.get(_name_in(batch))
    return batch[-1] if isinstance(batch, (tuple, list)) and len(batch) > 1 else None


def with_target(batch: Any, target: Any) -> Any:
    """The same batch with another target, where it has one."""
    if isinstance(batch, Mapping):
        return {**batch, _name_in(batch): target}
    return (*batch[:-1], target)


def _name_in(batch: Mapping[str, Any]) -> str:
    """The name of its target; that of no entry where there is none."""
    return next((name for name in (*_USUAL, *_OTHERS) if name in batch), "")


def _fields_of(batch: Any) -> dict[str, Any] | None:
    if isinstance(batch, tuple) and hasattr(batch, "_asdict"):
        return dict(batch._asdict())
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in fields(batch)}
    return None


def _of_mapping(sample: Mapping[str, Any], with_target: bool) -> Iterator[Split]:
    usual, others = (
        [name for name in names if with_target and name in sample] for names in (_USUAL, _OTHERS)
    )
    for name in (*usual, None, *others):
        rest = {key: value for key, value in sample.items() if key != name}
        yield (), rest, None if name is None else sample[name]
    yield (dict(sample),), {}, target_of(sample) if with_target else None


def _of_inputs(inputs: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    only = inputs[0] if len(inputs) == 1 else None
    if isinstance(only, Mapping):
        yield (), dict(only)
    elif isinstance(only, (tuple, list)) and len(only) == 1 and isinstance(only[0], (Mapping, tuple, list)):
        yield from _of_inputs(tuple(only))
    elif isinstance(only, (tuple, list)):
        # One in a list is a list where the network takes lists: the last batch may be of one sample.
        yield from [(inputs, {}), (tuple(only), {})] if len(only) == 1 else [(tuple(only), {})]
    yield inputs, {}


def _takes(forward: Callable[..., Any], split: Split) -> bool:
    """Can it be called like that, as far as its signature tells?"""
    args, kwargs, _ = split
    try:
        signature = inspect.signature(forward)
    except ValueError:  # nobody has written it down, as for what TorchScript has traced
        return True
    try:
        given = signature.bind(*args, **kwargs)
    except TypeError:
        return False
    if len(args) == 1 and isinstance(args[0], (tuple, list)) and not _is_one(signature):
        return False
    # A mapping with an entry of the argument's own name was meant to be taken apart.
    return not any(isinstance(value, Mapping) and name in value for name, value in given.arguments.items())


def _is_one(signature: inspect.Signature) -> bool:
    """Whether there is one positional argument and no more."""
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds) == 1 and inspect.Parameter.VAR_POSITIONAL not in kinds
