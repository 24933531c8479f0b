"""Why a network cannot be followed: the step is run once as plain code, and what fails there is named."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from esper.batches import target_of
from esper.errors import ConfigError, EsperError, UntraceableError, users_line

_ON_VALUES = ("data-dependent", "data dependent", "DataDependent", "DynamicOutputShape", "unbacked")


def refuse(model: nn.Module, loss: Any, inputs: tuple[Any, Any, Any], error: Exception) -> NoReturn:
    """Says what keeps a step from being exported, and only advises what helps against that.

    Args:
        model: in eval mode.
        loss: `loss(output, target)`, or None where the network was followed alone.
        inputs: positional inputs, keyword inputs, and target.
        error: what the exporter raised.

    Raises:
        ConfigError: the sample does not fit the network, or the loss does not fit what it gives.
        UntraceableError: the network fails as plain code, or only the exporter cannot follow it.
    """
    args, kwargs, target = inputs
    name = type(model).__name__
    _check_call(model, args, kwargs, target)
    with torch.enable_grad():  # as in training: a forward pass may take derivatives itself
        try:
            output = model(*args, **kwargs)
        except EsperError:
            raise
        except Exception as own:
            raise UntraceableError(
                f"{name}.forward fails on the sample, before anything is followed{_at(own)}: {_first(own)} "
                f"It was called in eval mode with {_described((*args, *kwargs.values()))}."
                f"{_on_batch(args, kwargs, target)}"
            ) from own
        if loss is not None:
            _check_loss(name, loss, output, inputs)
    raise UntraceableError(
        f"torch.export cannot follow {name}.forward{_at(error)}: {_first(error)} {_advice(error)}"
    ) from error


def number_from(loss: Any, output: Any, kwargs: Mapping[str, Any], target: Any) -> Tensor:
    """The loss of an output.

    Raises:
        ConfigError: it is no tensor.
    """
    value = loss(output, target)
    if isinstance(value, Tensor):
        return value
    got = "None" if value is None else f"a {type(value).__name__}"
    raise ConfigError(
        f"The loss gave {got}, and one number in a tensor is needed. Does loss(output, target) return it?"
        + _on_labels(kwargs, target)
    )


def _check_call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], target: Any) -> None:
    """Makes sure that `forward` takes as many inputs as the sample holds, by these names."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++: nothing is known of it
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as misfit:
        known = [name for name in kwargs if name in signature.parameters]
        is_part = 0 < len(known) < len(kwargs)
        raise ConfigError(
            f"The sample holds {_described((*args, *kwargs.values()))} as inputs, and "
            f"{type(model).__name__}.forward{signature} cannot be called with that: {misfit}. "
            "The inputs of a batch are passed to `forward` in their order, those of a mapping by name."
            f"{_on_entries(kwargs, known, target) if is_part else ''}{_on_more(signature, args, kwargs)}"
        ) from misfit


def _check_loss(name: str, loss: Any, output: Any, inputs: tuple[Any, Any, Any]) -> None:
    _, kwargs, target = inputs
    try:
        number_from(loss, output, kwargs, target)
    except EsperError:
        raise
    except Exception as own:
        raise ConfigError(
            f"The loss fails on what {name} gives in eval mode, which is how it is followed{_at(own)}: "
            f"{_first(own)} The output is {_described(output)}, the target {_described(target)}. Let "
            "loss(output, target) read what the network gives after `model.eval()`."
            f"{_on_labels(kwargs, target)}{_on_no_target(inputs)}"
        ) from own


def _on_more(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What to do where the first inputs would do, as with data sets that also give an index or a path."""
    for count in range(len(args) - 1, 0, -1):
        try:
            signature.bind(*args[:count], **kwargs)
        except TypeError:
            continue
        inputs = ", ".join(f"x{number}" for number in range(1, count + 1)) if count > 1 else "x"
        form = f"(({inputs}), y)" if count > 1 else "(x, y)"
        return (
            " Of a batch the last entry is the target, and all before it are inputs. Where the loop uses "
            f"fewer of them, give `sample` and `probe` in the form that it uses, `{form}`: "
            f"`probe=[{form} for {inputs}, y, *_ in loader]`."
        )
    return ""


def _on_no_target(inputs: tuple[Any, ...]) -> str:
    args, kwargs, target = inputs
    if target is not None or kwargs or len(args) != 1:
        return ""
    return " This sample is an input without a target: give (input, target), one batch of the data loader."


def _on_batch(args: Sequence[Any], kwargs: Mapping[str, Any], target: Any) -> str:
    """What batch to give."""
    whole = next((one for one in args if isinstance(one, Mapping) and one), None)
    if whole is None:
        usual = " Give one batch as the data loader yields it, on the network's device."
        return usual + _on_target(args, kwargs, target)
    inputs = [name for name, value in whole.items() if isinstance(value, Tensor) and value is not target]
    return _on_entries(whole, inputs[:1], target)


def _on_entries(batch: Mapping[str, Any], inputs: Sequence[str], target: Any) -> str:
    """How a network gets some entries of a mapping only, as where the loop calls `model(batch["image"])`."""
    goal = target_of(batch) if target is None else target
    others = [name for name in batch if name not in inputs]
    at = [name for name in others if batch[name] is goal] or (others[-1:] if goal is None else [])
    entries = [f'batch["{name}"]' for name in inputs]
    if len(entries) > 1:
        named = (f'"{name}": {entry}' for name, entry in zip(inputs, entries, strict=True))
        entries = ["{" + ", ".join(named) + "}"]
    last = f'batch["{at[0]}"]' if at else "target"
    here = f", here `({entries[0]}, {last})`" if inputs else ""
    return (
        " Where the loop passes only a part of a batch on, give `sample` and `probe` in that form, as "
        f'`(input, target)`{here}: docs/session.md, "What a batch may be".'
    )


def _on_target(args: Sequence[Any], kwargs: Mapping[str, Any], target: Any) -> str:
    """What to do where the network takes the target too, which it did not get."""
    if not args or target is None:
        return _on_labels(kwargs, target)
    return (
        " What comes last in a batch goes to the loss as its target. A network that takes the whole batch, "
        "target and all, gets it from `(batch, batch[-1])` instead of `batch`, in `sample` and in `probe`."
    )


def _on_labels(kwargs: Mapping[str, Any], target: Any) -> str:
    """What to do where the network computes its loss itself, from labels that it did not get."""
    if not kwargs or target is None:
        return ""
    return (
        " The labels of a mapping go to the loss as its target and not into the network. A network that "
        "computes its loss itself needs them inside: give `(batch, batch['labels'])` instead of `batch`, in "
        "`sample` and in `probe`."
    )


_DERIVATIVES = (
    "autograd.grad(",
    ".backward(",
    "jvp(",
    "vjp(",
    "jacrev(",
    "jacfwd(",
    "hessian(",
    "func.grad(",
)


def _advice(error: Exception) -> str:
    text = f"{type(error).__name__} {error}"
    if _is_in_line(error, "pack_padded_sequence", "pack_sequence"):
        return (
            "Packed sequences can be followed where they are made of a padded batch, with their lengths in a "
            "tensor: `pack_padded_sequence(x, lengths, ...)`, without `tolist()` and without `pack_sequence`."
        )
    is_strange = "fake tensor in the exported program" in text
    if is_strange or _is_in_line(error, *_DERIVATIVES):
        writes = (
            " So does one that writes into its weights (`weight.data = ...`): let it make a new tensor of "
            "them, as in `F.linear(x, signs(self.weight))`."
        )
        return (
            "A forward pass that takes derivatives itself ends so, and cannot be followed. Attach the "
            "network of which they are taken, `esper.attach(model.net, ...)` with a loss on what it gives, "
            f"and take them in the loop.{writes if is_strange else ''}"
        )
    if any(sign in text for sign in _ON_VALUES):
        return (
            "Esper needs the whole computation as one graph, and here it depends on the values of a tensor. "
            "Replace such control flow (`if x.sum() > 0`, `range(int(n))`) by torch.where or torch.cond, or "
            "attach Esper to the sub-module that can be followed. A condition that only spares work on rows "
            "where there are none (`if chosen.any():`) can be left out. So can checks (`assert not "
            "x.isnan().any()`) and logs (`x.norm().item()`), or they stand under `if self.training:`, as "
            "what is set by the first batch may (`if self.training and not self.initialized:`)."
        )
    if "Unsupported input type" in text or "Node type mismatch" in text:
        return (
            "Inputs have to be tensors, or tuples, lists or dictionaries of them. Let `forward` take those "
            "and build its own class from them, and give `sample` and `probe` in that form."
        )
    if "register a pytree" in text or "pytree containers" in text:
        return (
            "The exporter does not know what holds the tensors there. Return tensors, tuples, lists "
            "or dictionaries of them, or make the class known by torch.export.register_dataclass."
        )
    return (
        "The network runs as plain code, so it is the exporter that stops here: "
        "`torch.export.export(model.eval(), inputs, strict=False)` shows the same in full. Write that part "
        "otherwise, or attach Esper to the sub-module that can be followed."
    )


def _is_in_line(error: BaseException, *words: str) -> bool:
    """Whether a line of code that led to it holds one of these words."""
    lines = [frame.line or "" for frame in traceback.extract_tb(error.__traceback__)]
    return any(word in line for word in words for line in lines)


def _at(error: Exception) -> str:
    line = users_line(error, installed=True)
    return f" ({line})" if line else ""


def _first(error: Exception) -> str:
    """The first line of what was raised, as a sentence."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _described(value: Any) -> str:
    """What a value is made of, one level deep."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_kind, value))})"
    return _kind(value)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return _described(value)
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"
