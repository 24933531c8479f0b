"""What is compared in a proof: outputs and gradients of a network, or of the module of a program."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from esper.anatomy.graph import call_with, undisturbed, without_caches
from esper.anatomy.proof.inputs import Inputs, in_precision, is_number
from esper.anatomy.proof.pieces import Factor, InPieces

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True)
class Observation:
    """Outputs, and gradients of a fixed random projection of them; None where nobody asked for gradients.

    Of a large weight they hold the factors of its gradient, under names of their own; `places` says whose.
    """

    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor] | None
    places: Mapping[str, Factor] = field(default_factory=dict)


@dataclass(frozen=True)
class Mode:
    """How a subject is run.

    Attributes:
        dtype: the precision.
        batch_statistics: normalize by the batch itself, as in training. Dropout stays off, because two widths
            draw different numbers.
        as_trained: everything as in training, which draws: nothing can be compared then, but it has to run.
        with_gradients: whether gradients are wanted.
        nudge: makes every parameter larger by that fraction, to see what rounding can do.
    """

    dtype: torch.dtype
    batch_statistics: bool = False
    as_trained: bool = False
    with_gradients: bool = True
    nudge: float = 0.0


OUTPUTS = Mode(torch.float32, with_gradients=False)
"""What a network gives as it is used."""
TRAINED = Mode(torch.float32, as_trained=True, with_gradients=False)
"""As a network is trained: with heads, statistics and losses of its own that it has then only."""


class Subject(Protocol):
    """Something that computes, and can be observed doing so."""

    @property
    def has_batch_statistics(self) -> bool:
        """Whether it normalizes by the statistics of a batch when it trains."""

    @property
    def can_train(self) -> bool:
        """Whether it has a training mode at all."""

    @property
    def advice(self) -> str:
        """What to do where it differs from what was expected."""

    def see(self, mode: Mode) -> Observation:
        """Runs it on the same inputs; whatever its code raises passes through."""


Change = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def _no_change(_: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return {}


@dataclass(frozen=True, eq=False)
class Live:
    """A live network, observed on copies of its tensors: it is not touched.

    Attributes:
        model: the network.
        inputs: what it is called with.
        change: makes new values of some tensors from the copies, by name: a mask, for example.
        changing: names of the tensors that it writes into.
        large: names of weights that are not widened as a whole.
        first_names: for other names of tied tensors the first one, by which gradients are told apart.
    """

    model: nn.Module
    inputs: Inputs
    change: Change = _no_change
    changing: frozenset[str] = frozenset()
    large: frozenset[str] = frozenset()
    first_names: Mapping[str, str] = field(default_factory=dict)
    advice: ClassVar[str] = (
        "The cut was undone and nothing changed. Code that computes with a fixed size (for example "
        "`C // self.n_head`) is the usual reason."
    )
    can_train: ClassVar[bool] = True

    @property
    def has_batch_statistics(self) -> bool:
        return any(isinstance(module, _NormBase) for module in self.model.modules())

    def see(self, mode: Mode) -> Observation:
        tensors, large = self._tensors(mode.dtype)
        numbers = {n: tensors[n] for n, _ in self.model.named_parameters() if n in tensors}
        numbers = {n: tensor for n, tensor in numbers.items() if is_number(tensor)}
        for parameter in numbers.values():
            if mode.nudge:
                parameter.mul_(1.0 + mode.nudge)
        wanted = None
        if mode.with_gradients:
            wanted = {self.first_names.get(name, name): p.requires_grad_() for name, p in numbers.items()}
        pieces, cast = InPieces(large, wanted, 1.0 + mode.nudge), self.inputs.cast(mode.dtype)
        tensors |= pieces.stand_ins
        with (
            undisturbed(self.model),
            _training(self.model, mode),
            _plain_attention(),
            torch.set_grad_enabled(mode.with_gradients),
            pieces if large else nullcontext(),
        ):
            observation = seen(lambda: call_with(self.model, tensors, cast.args, cast.kwargs), wanted)
        if large and any(bool(output.isnan().any()) for output in observation.outputs):
            # A stand-in was used unseen, or the network does compute NaN.
            return replace(self, large=frozenset()).see(mode)
        if wanted is None or not large:
            return observation
        gradients = {**(observation.gradients or {}), **pieces.factors}
        return replace(observation, gradients=gradients, places=pieces.places)

    def _tensors(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Copies in that precision, and in their own the large weights of a network that is to be widened."""
        whole = dtype == torch.float64
        parameters, large = dict(self.model.named_parameters()), {}
        for name in self.large & parameters.keys() if whole else ():
            if parameters[name].dtype in _NARROW:
                weight = parameters.pop(name).detach()
                large[name] = weight.clone() if name in self.changing else weight
        # Whatever changes, as under a mask, changes in copies. A trial is made on a copy of the network, of
        # which nothing else has to be copied once more.
        tensors = {
            name: in_precision(parameter, dtype, copy=not self.inputs.is_quick or name in self.changing)
            for name, parameter in parameters.items()
        }
        tensors |= {n: in_precision(buffer, dtype, copy=True) for n, buffer in self.model.named_buffers()}
        for name, value in self.change(tensors | large).items():
            (large if name in large else tensors)[name] = value
        return tensors, large


@dataclass(frozen=True, eq=False)
class Graph:
    """The module of an exported program, which computes in eval mode; it is not touched.

    Attributes:
        module: the module.
        inputs: what it is called with.
        is_network: whether it holds a network as its attribute `model`: then gradients are told by that
            network's own names of parameters. A program for use has none.
    """

    module: nn.Module
    inputs: Inputs
    is_network: bool = False
    has_batch_statistics: ClassVar[bool] = False
    can_train: ClassVar[bool] = False
    advice: ClassVar[str] = "Nothing was changed. Leave these units whole."

    def see(self, mode: Mode) -> Observation:
        module, inputs = self.module, self.inputs.first()
        if mode.dtype == torch.float64:
            module, inputs = in_double(module, nudge=mode.nudge), inputs.cast(mode.dtype)
        return seen_in(module, inputs, with_gradients=mode.with_gradients and self.is_network)


def seen_in(module: nn.Module, inputs: Inputs, *, with_gradients: bool) -> Observation:
    """What the module of a traced network gives; its parameters are called what the network calls them."""
    numbers = {name: p for name, p in module.named_parameters() if is_number(p)}
    wanted = {name.removeprefix("model."): p.requires_grad_() for name, p in numbers.items()}
    with torch.set_grad_enabled(with_gradients), torch.random.fork_rng(devices=[]):
        return seen(lambda: module(*inputs.args, **inputs.kwargs), wanted if with_gradients else None)


def seen(call: Callable[[], Any], wanted: Mapping[str, Tensor] | None) -> Observation:
    """What a call gives, and how it depends on the wanted tensors: zeros where it does not."""
    outputs = tuple(leaf for leaf in pytree.tree_leaves(without_caches(call())) if is_number(leaf))
    gradients: dict[str, Tensor] | None = None
    if wanted is not None:
        given: tuple[Tensor | None, ...] = (None,) * len(wanted)
        # Outputs that depend on no parameter have no gradient to ask for.
        if any(output.requires_grad for output in outputs):
            given = torch.autograd.grad(_projection(outputs), list(wanted.values()), allow_unused=True)
        pairs = zip(wanted.items(), given, strict=True)
        gradients = {name: torch.zeros_like(leaf) if g is None else _dense(g) for (name, leaf), g in pairs}
    return Observation(tuple(output.detach() for output in outputs), gradients)


def _dense(gradient: Tensor) -> Tensor:
    """The same numbers where each has a place: an `nn.Embedding(sparse=True)` gives rows alone."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def _projection(outputs: tuple[Tensor, ...]) -> Tensor:
    """A fixed random weighting of all outputs, so that no gradient cancels by symmetry."""
    real = [torch.view_as_real(output) if output.is_complex() else output for output in outputs]
    total = torch.zeros((), dtype=real[0].dtype, device=real[0].device)
    for number, output in enumerate(real):
        # Drawn on the CPU in float64: every device and precision gets the same weights.
        generator = torch.Generator("cpu").manual_seed(number)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64, device="cpu").to(output)
        total = total + (output * weights).sum()
    return total


@contextmanager
def _training(model: nn.Module, mode: Mode) -> Iterator[None]:
    """The modules that a mode runs as in training; who calls this puts them back."""
    if mode.as_trained:
        model.train()
    for module in model.modules() if mode.batch_statistics else ():
        if isinstance(module, _NormBase):
            module.train()
    yield


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Without torch's fused encoder path, which writes zeros at padded places and needs uncut heads."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def in_double(module: nn.Module, *, nudge: float = 0.0) -> nn.Module:
    """A copy of a program's module that computes everything in float64, whatever types its code names."""
    wide = deep_copy(module).double()
    for part in wide.modules():
        if isinstance(part, fx.GraphModule):
            _widen(part)
    with torch.no_grad():
        for parameter in wide.parameters():
            if nudge and parameter.is_floating_point():
                parameter.mul_(1.0 + nudge)
    return wide


def deep_copy(module: _M) -> _M:
    """A copy of a program's module, without the warnings of torch about its own tree of inputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(module)


def _widen(part: fx.GraphModule) -> None:
    for node in list(part.graph.nodes):
        # An assertion about types would fail on the wider ones.
        if "_assert_tensor_metadata" in str(node.target):
            part.graph.erase_node(node)
            continue
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(part.get_submodule(owner), name)
            if isinstance(value, Tensor) and value.dtype in _NARROW:  # neither parameter nor buffer
                setattr(part.get_submodule(owner), name, value.double())
        node.args, node.kwargs = pytree.tree_map(_wider, (node.args, node.kwargs))
    part.recompile()


def _wider(value: Any) -> Any:
    return torch.float64 if value in _NARROW and isinstance(value, torch.dtype) else value
