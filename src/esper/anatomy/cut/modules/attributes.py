"""Attributes of modules that Esper does not know: found by trial, accepted only by the proof.

A module written by a user may repeat a size in an attribute (`self.inner = 256`, `self.num_heads = 8`). Which
ones must follow a cut cannot be read off, so every integer attribute that equals an old size is a candidate,
the network is tried with rewritten candidates (the same ones for every module of a class, fewest first), and
the first combination that proves equal is kept. Where the code raises, attributes of the modules that it
raises in are tried next, innermost first; a rewrite that leaves the error as it was leads nowhere.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from esper.anatomy.cut.modules.sizes import bare_norms_follow, set_attribute
from esper.anatomy.proof import (
    IN_TRAINING,
    OUTPUTS,
    Equivalence,
    Inputs,
    Live,
    Reference,
    Undo,
    large_in,
    prove,
    why_random,
)
from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError

MAX_TRIALS = 256
_OWN = ("torch.nn.", "esper.")


@dataclass(frozen=True)
class _Rewrite:
    """One attribute of one module and the size, or the sizes in their list, that it would get."""

    module: nn.Module
    path: str
    attribute: str
    value: int | list[int] | tuple[int, ...]


_Key = tuple[str, str]  # class and attribute
_Options = dict[_Key, list[tuple[_Rewrite, ...]]]
_Chosen = frozenset[tuple[_Key, int]]


def fit_attributes(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    kept: Mapping[str, Mapping[int, Tensor]],
    expected: Reference,
    inputs: Inputs,
    undo: Undo,
) -> tuple[Equivalence, tuple[str, ...]]:
    """Proves the cut network equal, rewriting unknown attributes where that is needed.

    Raises:
        NotEquivalentError: no combination of attributes makes it equal.
    """
    ours = Live(model, inputs, large=large_in(anatomy))
    try:
        with bare_norms_follow(model, undo):
            return prove(ours, expected, kept), ()
    except Exception as error:  # noqa: BLE001  user code at its new sizes may raise anything
        first = error
    # Before sizes in the code are blamed: what differs from itself is proven by no attribute.
    if isinstance(first, NotEquivalentError) and (why := why_random(ours)):
        raise NotEquivalentError(why) from first
    search = _Search(_candidates(model, anatomy, keep, kept), lambda: prove(ours, expected, kept), undo)
    # First the innermost class alone, then every class that the error passed through.
    for reach in (1, None):
        proof = search.run(_Failure.of(first), reach)
        if proof is not None:
            return proof
    if isinstance(first, NotEquivalentError):
        if why := _returned(ours, expected, anatomy, kept):
            raise NotEquivalentError(why) from first
        raise first
    line = (str(first).strip() or type(first).__name__).splitlines()[0]
    if IN_TRAINING in getattr(first, "__notes__", ()):
        raise NotEquivalentError(
            f"As it is trained, the network's code does not run at the new sizes{_place(first)}: {line}. The "
            "cut was undone and nothing changed. What is read in training alone (a second head, weights that "
            "are drawn) is not followed, so these units have to stay."
        ) from first
    raise NotEquivalentError(
        f"The network's code does not run at the new sizes{_place(first)}: {line}. The cut was undone and "
        "nothing changed. Code that computes with a fixed size (for example `C // self.n_head`, "
        "`.view(B, T, C)`) is the usual reason; use -1 or a stored head width there, or leave these units "
        "whole."
    ) from first


def _returned(
    ours: Live, expected: Reference, anatomy: Anatomy, kept: Mapping[str, Mapping[int, Tensor]]
) -> str:
    """That the network returns what is cut, where an output is narrower by just that; '' if none is."""
    shapes = {info.name: info.shape for info in anatomy.tensors}
    cuts = {
        (shapes[name][axis], len(index))
        for name, axes in kept.items()
        for axis, index in axes.items()
        if name in shapes
    }
    outputs, before = ours.see(OUTPUTS).outputs, expected.single.outputs
    for number, (now, then) in enumerate(zip(outputs, before, strict=False), 1):
        changed = [sizes for sizes in zip(then.shape, now.shape, strict=False) if sizes[0] != sizes[1]]
        # The first axis is that of samples: code that reshapes to a fixed width has more or fewer of them.
        if now.dim() == then.dim() and len(now) == len(then) and len(changed) == 1 and changed[0] in cuts:
            return (
                f"The network returns a tensor whose width the cut would change (output {number} of "
                f"{len(before)}: {tuple(now.shape)} instead of {tuple(then.shape)}), and code outside may "
                "count on it: to let it go, give Esper a wrapper whose forward returns only what the loss "
                "reads; a loop may go on calling the network inside. Nothing was changed."
            )
    return ""


@dataclass(frozen=True)
class _Failure:
    """How an attempt failed, without the tensors that its traceback would hold on to."""

    what: tuple[str, str, str]
    """Kind, message and line of the error."""
    inside: tuple[str, ...]
    """Classes of modules that it passed through, innermost first; empty if the network ran."""

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        return cls((type(error).__qualname__, str(error), _place(error)), tuple(_classes(error)))

    def is_that_of(self, other: _Failure) -> bool:
        """Did the code stop at the same place for the same reason?"""
        return bool(self.inside) and self.what == other.what


class _Search:
    """Tries combinations of rewrites, fewest first, until one proves equal."""

    def __init__(self, options: _Options, attempt: Callable[[], Equivalence], undo: Undo) -> None:
        self.options, self.attempt, self.undo = options, attempt, undo
        self.trials = 0
        self.seen: dict[_Chosen, _Failure] = {}

    def run(self, first: _Failure, reach: int | None) -> tuple[Equivalence, tuple[str, ...]] | None:
        """Starts from the failure of the unchanged code; at most `reach` classes outwards are changed."""
        waiting: deque[tuple[_Chosen, _Failure]] = deque([(frozenset(), first)])
        while waiting:
            chosen, failure = waiting.popleft()
            for more in self._next(chosen, failure, reach):
                # None: enough was tried. A proof: done. Another failure than before: this way leads on from
                # there.
                result = self.seen.get(more) or self._tried(more)
                if result is None:
                    return None
                if not isinstance(result, _Failure):
                    return result
                if not result.is_that_of(failure):
                    waiting.append((more, result))
        return None

    def _next(self, chosen: _Chosen, failure: _Failure, reach: int | None) -> Iterator[_Chosen]:
        taken = {key for key, _ in chosen}
        free = [key for key in self.options if key not in taken]
        if failure.inside:  # else it ran, and computes something else
            with_options = [name for name in failure.inside if any(key[0] == name for key in free)][:reach]
            free = [key for name in with_options for key in free if key[0] == name]
        for key in free:
            for number in range(len(self.options[key])):
                yield chosen | {(key, number)}

    def _tried(self, chosen: _Chosen) -> tuple[Equivalence, tuple[str, ...]] | _Failure | None:
        """What came of it; None when enough was tried."""
        if self.trials >= MAX_TRIALS:
            return None
        self.trials += 1
        rewrites = [rewrite for key, number in sorted(chosen) for rewrite in self.options[key][number]]
        trial = Undo()
        for rewrite in rewrites:
            set_attribute(rewrite.module, rewrite.attribute, rewrite.value, trial)
        try:
            equivalence = self.attempt()
        except Exception as error:  # noqa: BLE001  a wrong guess may raise anything; it is taken back
            trial.run()
            self.seen[chosen] = _Failure.of(error)
            return self.seen[chosen]
        # Part of the cut from here on; a wrong guess was taken back on the spot.
        self.undo.add(trial.run)
        return equivalence, tuple(f"{r.path}.{r.attribute} = {r.value}" for r in rewrites)


def _classes(error: BaseException) -> list[str]:
    """The classes of the user's modules that the error passed through, innermost first, then their parts.

    What raises may only be the first to notice: a part that ran before it gave something of a wrong size.
    """
    passed: list[nn.Module] = []
    trace_back = None if isinstance(error, NotEquivalentError) else error.__traceback__
    while trace_back is not None:
        local = [value for value in trace_back.tb_frame.f_locals.values() if isinstance(value, nn.Module)]
        # Frames come from outside in, so later ones go to the front.
        passed[:0] = [module for module in local if not _is_own(module)]
        trace_back = trace_back.tb_next
    parts = [part for module in passed for part in module.modules() if not _is_own(part)]
    return list(dict.fromkeys(type(module).__qualname__ for module in (*passed, *parts)))


def _is_own(module: nn.Module) -> bool:
    """Is it a module that Esper knows? The sizes of an `nn.Unflatten` are the user's."""
    return type(module).__module__.startswith(_OWN) and not isinstance(module, nn.Unflatten)


def _place(error: BaseException) -> str:
    """The last line of the user's own code that the error passed through."""
    lines = [
        (frame.f_code.co_filename, number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if "/torch/" not in frame.f_code.co_filename and "/esper/anatomy/" not in frame.f_code.co_filename
    ]
    return f" (line {lines[-1][1]} of {lines[-1][0]})" if lines else ""


def _candidates(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, kept: Mapping[str, Mapping[int, Tensor]]
) -> _Options:
    """For every attribute of a class: the ways in which it could follow, each for all its modules."""
    shapes = {info.name: info.shape for info in anatomy.tensors}
    by_source: dict[tuple[str, str], dict[str, dict[str, _Rewrite]]] = {}
    for path, module in model.named_modules():
        if _is_own(module):
            continue
        for place, inferred in _inferred(module):
            rewrite = _Rewrite(module, path, "unflattened_size", inferred)
            sources = by_source.setdefault((type(module).__qualname__, "unflattened_size"), {})
            sources.setdefault(f"size {place}", {})[path] = rewrite
        sizes = _sizes(path, anatomy, keep, kept, shapes)
        for attribute, old in vars(module).items():
            listed = _listed(old, sizes)
            if listed is not None:
                rewrite = _Rewrite(module, path, attribute, listed)
                sources = by_source.setdefault((type(module).__qualname__, attribute), {})
                sources.setdefault("list", {})[path] = rewrite
            # Flags, private attributes, 0 and 1 are hardly sizes.
            if not isinstance(old, int) or isinstance(old, bool) or old < 2 or attribute.startswith("_"):
                continue
            sources = by_source.setdefault((type(module).__qualname__, attribute), {})
            for source, before, after in sizes:
                # The size itself or, of a number of units, a multiple of it.
                if before and old % before == 0 and (old == before or source.startswith("units")):
                    rewrite = _Rewrite(module, path, attribute, old // before * after)
                    sources.setdefault(source if old == before else f"{source}*", {}).setdefault(
                        path, rewrite
                    )
    return _ways(by_source)


def _ways(by_source: Mapping[_Key, dict[str, dict[str, _Rewrite]]]) -> _Options:
    """The ways of every attribute, by class and attribute; ways that end in the same values are one."""
    options: _Options = {}
    for key, sources in by_source.items():
        # Modules of one class may follow different tensors: each its own first one is one more way.
        sources["each its own"] = {
            path: rewrite for found in reversed(sources.values()) for path, rewrite in found.items()
        }
        different = {
            frozenset((r.path, str(r.value)) for r in found.values()): found for found in sources.values()
        }
        if different:
            options[key] = [tuple(found.values()) for found in different.values()]
    return options


def _inferred(module: nn.Module) -> Iterator[tuple[int, tuple[int, ...]]]:
    """For every size that an `nn.Unflatten` spells out: its place, and the sizes with -1 there."""
    sizes = module.unflattened_size if isinstance(module, nn.Unflatten) else ()
    if all(type(size) is int and size >= 0 for size in sizes):  # else named, or inferred already
        for place in range(len(sizes)):
            yield place, (*sizes[:place], -1, *sizes[place + 1 :])


def _listed(old: object, sizes: Sequence[tuple[str, int, int]]) -> list[int] | tuple[int, ...] | None:
    """A list of sizes (of a split) with those replaced that can have become one other only; None if none."""
    if not isinstance(old, (list, tuple)) or not old or not all(type(size) is int for size in old):
        return None
    successors: dict[int, set[int]] = {}
    for _, before, after in sizes:
        successors.setdefault(before, set()).add(after)
    new = [next(iter(successors[size])) if len(successors.get(size, ())) == 1 else size for size in old]
    if new == list(old):
        return None
    return tuple(new) if isinstance(old, tuple) else new


def _sizes(
    path: str,
    anatomy: Anatomy,
    keep: BoolArray,
    kept: Mapping[str, Mapping[int, Tensor]],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[tuple[str, int, int]]:
    """(source, old size, new size) of everything that changed inside a module, numbers of units first."""
    prefix = f"{path}." if path else ""
    sizes = []
    for number, group in enumerate(anatomy.groups):
        inside = [m.tensor for m in group.members if m.tensor.startswith(prefix) and m.role == "producer"]
        left = int(np.count_nonzero(keep[anatomy.unit_slice(number)]))
        if inside and left < group.width:
            sizes.append((f"units {inside[0][len(prefix) :]}", group.width, left))
    for name, axes in kept.items():
        # At most two modules further down: deeper ones have attributes of their own.
        if name.startswith(prefix) and name[len(prefix) :].count(".") <= 2:
            for axis, index in axes.items():
                sizes.append((f"{name[len(prefix) :]}:{axis}", shapes[name][axis], index.numel()))
    return sizes
