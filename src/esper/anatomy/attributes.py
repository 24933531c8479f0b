"""Attributes of modules that Esper does not know: found by trial, accepted only by the proof.

A module written by a user may repeat a size in an attribute (`self.inner = 256`, `self.num_heads = 8`). Which
ones must follow a cut cannot be read off, so every integer attribute that equals an old size is a candidate,
the network is tried with rewritten candidates (the same ones for every module of a class, fewest first), and
the first combination that proves equal is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, combinations, product

import numpy as np
from torch import Tensor, nn

from esper.anatomy.equivalence import Equivalence, Probe, Reference, prove
from esper.anatomy.modules import bare_norms_follow, set_attribute
from esper.anatomy.structure import Anatomy, BoolArray
from esper.anatomy.tensors import Undo
from esper.errors import NotEquivalentError

MAX_TRIALS = 256
_OWN = ("torch.nn.", "esper.")


@dataclass(frozen=True)
class _Rewrite:
    """One attribute of one module and the size it would get."""

    module: nn.Module
    path: str
    attribute: str
    value: int


_Options = dict[tuple[str, str], list[tuple[_Rewrite, ...]]]


def fit_attributes(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    kept: Mapping[str, Mapping[int, Tensor]],
    expected: Reference,
    probe: Probe,
    undo: Undo,
) -> tuple[Equivalence, tuple[str, ...]]:
    """Proves the cut network equal, rewriting unknown attributes where that is needed.

    Raises:
        NotEquivalentError: no combination of attributes makes it equal.
    """
    try:
        with bare_norms_follow(model, undo):
            return prove(model, expected, kept, probe), ()
    except Exception as error:  # noqa: BLE001  user code at its new sizes may raise anything
        first = error
    options = _candidates(model, anatomy, keep, kept)
    for number, chosen in enumerate(_combinations(options)):
        if number >= MAX_TRIALS:
            break
        trial = Undo()
        for rewrite in chosen:
            set_attribute(rewrite.module, rewrite.attribute, rewrite.value, trial)
        try:
            equivalence = prove(model, expected, kept, probe)
        except Exception:  # noqa: BLE001  a wrong guess may raise anything; it is taken back
            trial.run()
            continue
        undo.add(trial.run)
        return equivalence, tuple(f"{r.path}.{r.attribute} = {r.value}" for r in chosen)
    if isinstance(first, NotEquivalentError):
        raise first
    line = (str(first).strip() or type(first).__name__).splitlines()[0]
    raise NotEquivalentError(
        f"The network's code does not run at the new sizes: {line}. The cut was undone and nothing changed. "
        "Code that computes with a fixed size (for example `C // self.n_head`, `.view(B, T, C)`) is the "
        "usual reason; use -1 or a stored head width there, or leave these units whole."
    ) from first


def _combinations(options: _Options) -> Iterator[tuple[_Rewrite, ...]]:
    """Choices of rewrites, the same for all modules of one class, fewest attributes first."""
    for size in range(1, len(options) + 1):
        for attributes in combinations(options.values(), size):
            for chosen in product(*attributes):
                yield tuple(chain.from_iterable(chosen))


def _candidates(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, kept: Mapping[str, Mapping[int, Tensor]]
) -> _Options:
    """For every attribute of a class: the ways in which it could follow, each for all its modules."""
    shapes = {info.name: info.shape for info in anatomy.tensors}
    by_source: dict[tuple[str, str], dict[str, dict[str, _Rewrite]]] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith(_OWN):
            continue
        sizes = _sizes(path, anatomy, keep, kept, shapes)
        for attribute, old in vars(module).items():
            if not isinstance(old, int) or isinstance(old, bool) or old < 2 or attribute.startswith("_"):
                continue
            sources = by_source.setdefault((type(module).__qualname__, attribute), {})
            for source, before, after in sizes:
                if before and old % before == 0 and (old == before or source.startswith("units")):
                    rewrite = _Rewrite(module, path, attribute, old // before * after)
                    sources.setdefault(source if old == before else f"{source}*", {}).setdefault(
                        path, rewrite
                    )
    options: _Options = {}
    for key, sources in by_source.items():
        different = {
            frozenset((r.path, r.value) for r in found.values()): found for found in sources.values()
        }
        if different:
            options[key] = [tuple(found.values()) for found in different.values()]
    return options


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
        if name.startswith(prefix) and name[len(prefix) :].count(".") <= 2:
            for axis, index in axes.items():
                sizes.append((f"{name[len(prefix) :]}:{axis}", shapes[name][axis], index.numel()))
    return sizes
