"""What torch puts around a network (compilation, data parallelism): taken off, and renewed after a cut."""

from __future__ import annotations

import copy
import sys
from collections.abc import Container, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from esper.errors import SurgeryError

_M = TypeVar("_M", bound=nn.Module)
_PREFIXES = ("module.", "_orig_mod.")


def copied(model: _M) -> _M:
    """A copy of a network, also where its modules keep tensors that they computed.

    Such a tensor (the weight that `torch.nn.utils.weight_norm` computes anew in every call, a state of the
    last one) is copied as a plain value: it has no gradient to the original.

    Raises:
        SurgeryError: the network holds something that cannot be copied.
    """
    kept = (value for module in model.modules() for value in vars(module).values())
    computed = [value for value in kept if isinstance(value, Tensor) and not value.is_leaf]
    try:
        made = copy.deepcopy(model, {id(value): value.detach().clone() for value in computed})
    except (TypeError, RuntimeError, AttributeError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and Esper tries cuts on a copy first. "
            "Remove what cannot be copied (open files, locks, lists of computed tensors) from it, or cut its "
            "program, which needs no copy: `esper.compact(..., in_place=False)`."
        ) from error
    if dict(made.named_parameters()).keys() != dict(model.named_parameters()).keys():
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied (a copy of it has other parameters, since its class "
            "says how it is copied), and Esper tries cuts on a copy first. Cut its program, which needs no "
            "copy: `esper.compact(..., in_place=False)`."
        )
    return made


def bare(model: nn.Module) -> nn.Module:
    """The network inside of `torch.compile`, `DistributedDataParallel` and `DataParallel`, in any order."""
    *_, innermost = layers(model)
    return innermost


def layers(model: nn.Module) -> Iterator[nn.Module]:
    """The wrappers of a network from outside in, and the network itself."""
    yield model
    while True:
        if _is_compiler(model):
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.get_submodule("module")
        else:
            return
        yield model


def bare_name(name: str, names: Container[str]) -> str:
    """A name without what wrappers put before it, so far as that leads to one of `names`."""
    while name not in names and (prefix := next(filter(name.startswith, _PREFIXES), "")):
        name = name.removeprefix(prefix)
    return name


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` is around a network as a whole."""
    return any(
        _is_compiler(layer) or getattr(layer, "_compiled_call_impl", None) is not None
        for layer in layers(model)
    )


def check_renewable(model: nn.Module) -> None:
    """Makes sure, before a cut, that the wrappers can follow it.

    Raises:
        SurgeryError: one of them cannot.
    """
    for layer in layers(model):
        if isinstance(layer, DistributedDataParallel) and layer.mixed_precision is not None:
            raise SurgeryError(
                "DistributedDataParallel with mixed_precision keeps second copies of all parameters, which "
                "cannot follow a cut. Nothing was changed. Use torch.autocast instead, or unwrap the network "
                "(`model.module`), cut it, and wrap it again."
            )


def renew(model: nn.Module) -> None:
    """After shapes have changed: gradient buckets are built anew, and compiled code is forgotten.

    The wrappers stay the objects that they are.
    """
    is_compiled = False
    for layer in layers(model):
        if isinstance(layer, DistributedDataParallel):
            _rebuild(layer)
        is_compiled = is_compiled or _is_compiled(layer)
    if is_compiled or any(_is_compiled(module) for module in bare(model).modules()):
        torch.compiler.reset()  # or every cut would count towards the limit of recompilations


def _is_compiled(module: nn.Module) -> bool:
    return _is_compiler(module) or vars(module).get("_compiled_call_impl") is not None


def _is_compiler(module: nn.Module) -> bool:
    # The compiler takes a second to import. A process that has not done so holds nothing compiled, and worker
    # processes never do.
    compiler = sys.modules.get("torch._dynamo")
    compiled = getattr(compiler, "OptimizedModule", None)  # another thread may be importing it just now
    return compiled is not None and isinstance(module, compiled)


def _rebuild(wrapper: DistributedDataParallel) -> None:
    """A reducer for the new sizes: the old one lost its hooks with the old gradients, so ranks would part.

    This is what unpickling a wrapper does (`__setstate__`), with its own process group and hooks kept.
    """
    state = dict(vars(wrapper))
    for of_old_sizes in ("reducer", "logger"):
        del state[of_old_sizes], vars(wrapper)[of_old_sizes]  # first, or both would hook into the gradients
    state["_static_graph_delay_allreduce_enqueued"] = False
    wrapper.__setstate__(state)
    hooks, vars(wrapper)["_comm_hooks"] = state["_comm_hooks"], []
    for hook, hook_state in hooks:
        wrapper.register_comm_hook(hook_state, hook)


def programs_made() -> int:
    """How many programs `torch.compile` has made here: graphs handed to a backend, found in a cache or not.

    The compiler is not imported for that: where nobody has done so there is none.
    """
    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", {})
    return int(counters.get("stats", {}).get("unique_graphs", 0))
