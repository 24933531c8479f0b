"""Which modules of a network can have a seed: found by watching one pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from esper.errors import UnknownPathError
from esper.kasmina.seeds.layer import primary

AUTO = "auto"
"""Instead of a pattern: where one block of the network ends and the next one begins."""


class _Watched:
    """What one pass has shown: calls and outputs of modules, and what modules with weights have read."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, int] = {}
        self.outputs: dict[nn.Module, Tensor] = {}
        self.read: set[Tensor] = set()

    def output(self, module: nn.Module, _: Any, output: Any) -> None:
        self.calls[module] = self.calls.get(module, 0) + 1
        try:
            self.outputs[module] = primary(output)
        except TypeError:  # no tensor of floats: no place
            self.outputs.pop(module, None)

    def input(self, module: nn.Module, inputs: Any) -> None:
        # A normalization of a batch belongs to what it normalizes: nothing ends before it.
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, _NormBase):
            self.read.update(value for value in inputs if isinstance(value, Tensor))


def places_in(
    model: nn.Module, run: Callable[[], object], pattern: str, counts: Callable[[str], bool]
) -> list[str]:
    """Paths of modules that can have a seed, in the order of the network.

    Each is called once in a pass, stands in one place, and gives a tensor of floats.

    Args:
        model: the network without seeds.
        run: one pass of it.
        pattern: of paths, as for files (`features.*`, `*.mlp`); or `auto`: the outermost modules whose output
            goes, as it is, into a layer with weights, so that what follows reads what the seed adds.
        counts: whether the module at a path is also called where the network is evaluated; `auto` leaves out
            others, as those inside of `nn.TransformerEncoderLayer` are.

    Raises:
        UnknownPathError: there is none.
    """
    watched, names = _Watched(), _names(model)
    with ExitStack() as hooks:
        for module in names:
            hooks.enter_context(module.register_forward_hook(watched.output))
            hooks.enter_context(module.register_forward_pre_hook(watched.input))
        run()
    able = {names[m]: watched.outputs[m] for m in names if watched.calls.get(m) == 1 and m in watched.outputs}
    if pattern == AUTO:
        # Of several that give the very same tensor the outermost comes first in the order of names.
        first: dict[Tensor, str] = {}
        for path, output in able.items():
            if output in watched.read and output.dim() > 1:
                first.setdefault(output, path)
        places = list(filter(counts, first.values()))
    else:
        places = [path for path in able if fnmatchcase(path, pattern)]
    if not places:
        raise UnknownPathError(
            f"{_unfit(pattern)}: {len(able)} modules are called once in a pass and give a tensor of floats, "
            f"such as {', '.join(list(able)[:3]) or 'none'}. Nothing was changed. Name places by a pattern "
            "of paths, such as 'features.*' (a policy reads it in `strategy.slots`)."
        )
    return places


def _unfit(pattern: str) -> str:
    if pattern != AUTO:
        return f"No module of the network that could have a seed fits {pattern!r}"
    return "No module of the network gives its output as it is to a layer with weights, as 'auto' looks for"


def _names(model: nn.Module) -> dict[nn.Module, str]:
    """Every module that stands in one place, by its path; the network itself is none."""
    names: dict[nn.Module, str] = {}
    twice = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if module in names:
            twice.add(module)
        names.setdefault(module, name)
    return {module: name for module, name in names.items() if name and module not in twice}
