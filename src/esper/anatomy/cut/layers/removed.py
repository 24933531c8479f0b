"""What is left of a module that was removed: no tensors, no work, and an answer of the old shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from esper.anatomy.graph import undisturbed
from esper.anatomy.proof import Inputs, Undo
from esper.errors import SurgeryError


class RemovedModule(nn.Module):
    """Gives its input, or zeros in the shape that its input and its past say.

    A removal turns a module into this class in place, so whoever holds the module holds it still. There is
    no constructor to call.

    Attributes:
        source: the argument that is its input: a position or a name.
        sizes: shape of the zeros, None where the input's own size is meant, 1 where what they are added to
            says it; None to give the input itself.
        results: how many values it returned in a tuple, of which the first is made; None for no tuple.
    """

    source: int | str
    sizes: tuple[int | None, ...] | None
    results: int | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given: Tensor = args[self.source] if isinstance(self.source, int) else kwargs[self.source]
        made = given
        if self.sizes is not None:
            shape = [given.shape[n] if size is None else size for n, size in enumerate(self.sizes)]
            made = given.new_zeros(shape)
        return made if self.results is None else (made, *[None] * (self.results - 1))


@dataclass(frozen=True)
class Answer:
    """How a removed module answers; see `RemovedModule`."""

    source: int | str
    sizes: tuple[int | None, ...] | None
    results: int | None

    @property
    def is_fixed(self) -> bool:
        """Does it say a width that the input does not have?"""
        return self.sizes is not None and any(size is not None for size in self.sizes)

    def spread(self) -> Answer:
        """The same with one number along such a width: a sum spreads it, also when the stream is narrower."""
        sizes = None if self.sizes is None else tuple(None if size is None else 1 for size in self.sizes)
        return replace(self, sizes=sizes)

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Answer:
        """How the removed module with these attributes answers."""
        return cls(*(attributes[field.name] for field in fields(cls)))


def answers(
    model: nn.Module, paths: Sequence[str], zeros: frozenset[str], inputs: Inputs
) -> dict[str, Answer]:
    """Watches modules at work to see how they could be answered for.

    Args:
        model: the network; it is left untouched.
        paths: the modules.
        zeros: those of them that must give zeros; the others may give their input if it has the right shape.
        inputs: what it is called with.

    Returns:
        Answers by module; none for a module without parameters that can as well stay.

    Raises:
        SurgeryError: one of them is called more than once or not at all, or answers in a way that cannot be
            imitated.
    """
    found: dict[str, Answer] = {}
    calls: Counter[str] = Counter()

    def watch(path: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
            calls[path] += 1
            if (answer := _answer(args, kwargs, output, with_zeros=path in zeros)) is not None:
                found[path] = answer

        return model.get_submodule(path).register_forward_hook(hook, with_kwargs=True)

    hooks = [watch(path) for path in paths]
    try:
        with undisturbed(model), torch.no_grad():
            given = inputs.first()  # copies: a network may write into its inputs
            model(*given.args, **given.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    for path in paths:
        must_go = path in zeros or next(model.get_submodule(path).parameters(), None) is not None
        if must_go and (calls[path] != 1 or path not in found):
            why = f"is called {calls[path]} times"
            if calls[path] == 1:
                why = "returns something whose shape does not follow from one of its inputs"
            raise SurgeryError(
                f"{path} {why}, so nothing can stand in its place. Nothing was changed. Remove this block "
                "from the program."
            )
    return {path: found[path] for path in paths if path in found and calls[path] == 1}


def _answer(args: Any, kwargs: Mapping[str, Any], output: Any, *, with_zeros: bool) -> Answer | None:
    results = len(output) if isinstance(output, tuple) and output else None
    made = output[0] if isinstance(output, tuple) and output else output
    given: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for source, value in given:
        if not isinstance(made, Tensor) or not isinstance(value, Tensor) or value.dim() != made.dim():
            continue
        # What the output's shape has that this input's has not.
        sizes = tuple(None if a == b else b for a, b in zip(value.shape, made.shape, strict=True))
        if sum(size is not None for size in sizes) > 1:
            continue  # more than a number of channels: would not follow another image size
        is_same = value.shape == made.shape and value.dtype == made.dtype
        return Answer(source, None if is_same and not with_zeros else sizes, results)
    return None


def become_removed(module: nn.Module, answer: Answer, undo: Undo) -> None:
    """Takes everything out of a module; names of its tensors and modules stay, and stand for None."""
    state, kind = dict(vars(module)), type(module)

    def back() -> None:
        module.__class__ = kind
        vars(module).clear()
        vars(module).update(state)

    undo.add(back)
    for names in ("_parameters", "_buffers", "_modules"):
        vars(module)[names] = dict.fromkeys(state[names])
    module.__class__ = RemovedModule
    vars(module).update(source=answer.source, sizes=answer.sizes, results=answer.results)
