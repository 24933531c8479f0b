"""The proof: a cut network computes what the masked one computes, forward and backward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree as pytree

from esper.anatomy.graph import call_with, undisturbed, without_caches
from esper.anatomy.proof.tensors import select
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError

FLOAT32_LIMIT = 1e-5
QUICK_LIMIT = 1e-3  # float32 without float64 beside it, where a proof follows; a wrong cut is wrong by more
FLOAT64_LIMIT = 1e-12
GRADIENT_LIMIT = 1e-9  # float64; gradients of batch statistics lose a few digits to cancellation
SENSITIVE_LIMIT = 1e-6  # float64; beyond this no network is sensitive enough for rounding to explain it


@dataclass(frozen=True)
class Probe:
    """Inputs on which two networks are compared; `is_quick` compares outputs in float32 alone, no proof."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False

    def cast(self, dtype: torch.dtype) -> Probe:
        """A copy in that precision; networks that write into their inputs do not write into these."""

        def to(leaf: Any) -> Any:
            return _copied(leaf, dtype) if isinstance(leaf, Tensor) else leaf

        return self._mapped(to)

    def beside(self, model: nn.Module) -> Probe:
        """The same on the network's device."""
        home = next((p.device for p in model.parameters()), None)

        def to(leaf: Any) -> Any:
            return leaf.to(home) if isinstance(leaf, Tensor) and home is not None else leaf

        return self._mapped(to)

    def first(self, count: int) -> Probe:
        """Copies of the first samples: for a network whose batch may have any size."""

        def shortened(leaf: Any) -> Any:
            return leaf[:count].detach().clone() if isinstance(leaf, Tensor) and leaf.dim() else leaf

        return self._mapped(shortened)

    def _mapped(self, change: Callable[[Any], Any]) -> Probe:
        args, kwargs = pytree.tree_map(change, (self.args, dict(self.kwargs)))
        return replace(self, args=args, kwargs=kwargs)


@dataclass(frozen=True)
class Equivalence:
    """Largest difference found, relative to the largest value compared; None where it was not measured."""

    float32_error: float
    float64_error: float | None
    gradient_error: float | None
    samples: int
    note: str = ""
    approximation: float | None = None
    """Where normalizations lose a part: how far the outputs are from those of the merely masked network."""

    def after(self, first: Equivalence) -> Equivalence:
        """What is known after two steps, of which this is the second: the larger of their differences."""

        def larger(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else max(a, b)

        return replace(
            self,
            float32_error=max(first.float32_error, self.float32_error),
            float64_error=larger(first.float64_error, self.float64_error),
            gradient_error=larger(first.gradient_error, self.gradient_error),
        )


@dataclass(frozen=True)
class Observation:
    """What a network computed on a probe: outputs, and gradients of a fixed random projection of them."""

    outputs: tuple[Tensor, ...]
    gradients: Mapping[str, Tensor]


def observe(
    model: nn.Module,
    probe: Probe,
    dtype: torch.dtype,
    *,
    masked: tuple[Anatomy, BoolArray] | None = None,
    batch_statistics: bool = False,
    with_gradients: bool = True,
    nudge: float = 0.0,
) -> Observation:
    """Runs the network on copies of its tensors in `dtype`, masked if asked; the live one is not touched.

    `nudge` makes every parameter larger by that fraction, to see what rounding can do.
    """
    parameters = {name: _copied(p, dtype) for name, p in model.named_parameters()}
    buffers = {name: _copied(b, dtype) for name, b in model.named_buffers()}
    if masked is not None:
        zero_masked(parameters, masked_axes(*masked))
    for parameter in parameters.values():
        if nudge and is_number(parameter):
            parameter.mul_(1.0 + nudge)
    wanted = {n: p.requires_grad_() for n, p in parameters.items() if with_gradients and is_number(p)}
    cast = probe.cast(dtype)
    modes = undisturbed(model), _batch_statistics(model, wanted=batch_statistics)
    with modes[0], modes[1], _plain_attention(), torch.set_grad_enabled(with_gradients):
        output = call_with(model, {**parameters, **buffers}, cast.args, cast.kwargs)
        outputs = tuple(leaf for leaf in pytree.tree_leaves(without_caches(output)) if is_number(leaf))
        gradients: Mapping[str, Tensor] = {}
        if any(output.requires_grad for output in outputs):
            gradients = gradients_of(outputs, wanted)
    return Observation(tuple(t.detach() for t in outputs), gradients)


def tensors_in(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of parameters and buffers in that precision, by first name."""
    held = (*model.named_parameters(), *model.named_buffers())
    return {name: _copied(tensor, dtype) for name, tensor in held}


def outputs_with(model: nn.Module, tensors: Mapping[str, Tensor], probe: Probe) -> tuple[Tensor, ...]:
    """What the network gives in eval mode with other tensors in the place of its own."""
    inputs = probe.first(sys.maxsize)  # copies: a network may write into its inputs
    with undisturbed(model), _plain_attention(), torch.no_grad():
        output = call_with(model, tensors, inputs.args, inputs.kwargs)
    return tuple(leaf for leaf in pytree.tree_leaves(without_caches(output)) if is_number(leaf))


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not is_number(tensor):
        return tensor.detach().clone()
    return tensor.detach().to(dtype.to_complex() if tensor.is_complex() else dtype, copy=True)


def is_number(leaf: Any) -> bool:
    """Is it a tensor that outputs and gradients are compared by?"""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def gradients_of(outputs: tuple[Tensor, ...], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Gradients of the same projection of outputs in every network."""
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        _projection(outputs), list(wanted.values()), allow_unused=True
    )
    return {name: gradient for name, gradient in zip(wanted, found, strict=True) if gradient is not None}


def _projection(outputs: tuple[Tensor, ...]) -> Tensor:
    """A fixed random weighting of all outputs, so that no gradient cancels by symmetry."""
    real = [torch.view_as_real(output) if output.is_complex() else output for output in outputs]
    total = torch.zeros((), dtype=real[0].dtype, device=real[0].device)
    for number, output in enumerate(real):
        generator = torch.Generator("cpu").manual_seed(number)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64, device="cpu").to(output)
        total = total + (output * weights).sum()
    return total


@contextmanager
def _batch_statistics(model: nn.Module, *, wanted: bool) -> Iterator[None]:
    """Normalization by the batch itself, as in training; dropout stays off, because it cannot be compared."""
    if wanted:
        for module in model.modules():
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


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference over the largest finite value (at least 1e-3, so that zeros compare).

    The same infinity at the same place is no difference (scores that a network masks); NaN always is one.
    """
    ours, theirs = ours.detach(), theirs.detach()
    if ours.shape != theirs.shape:
        return float("inf")
    apart = ours != theirs
    if not bool(apart.any()):
        return 0.0
    scale = max(float(theirs.abs().masked_fill(~theirs.isfinite(), 0.0).max()), 1e-3)
    error = float((ours - theirs)[apart].abs().max()) / scale
    return error if error == error else float("inf")


@dataclass(frozen=True)
class Reference:
    """What the masked network computed: in float32, in float64, and in float64 by batch statistics."""

    single: Observation
    double: Observation | None
    training: Observation | None
    note: str
    approximation: float | None = None
    rounding: Callable[[], tuple[float, float]] = lambda: (0.0, 0.0)
    """Measures what its code rounds in float64, by naming a shorter type: in outputs, in gradients."""


def masked_reference(model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe) -> Reference:
    """Observes the masked network.

    Raises:
        NotEquivalentError: it computes NaN.
    """
    masked = (anatomy, keep)
    single = observe(model, probe, torch.float32, masked=masked, with_gradients=False)
    if _holds_nan(single):
        raise NotEquivalentError(
            "With these units masked the network computes NaN on the probe, so nothing can be compared. "
            "Nothing was changed. Give inputs that the network can take, or look for a division by zero."
        )
    if probe.is_quick:
        return Reference(single, None, None, "outputs in float32 alone")
    try:
        double = observe(model, probe, torch.float64, masked=masked)
    except RuntimeError as error:
        return Reference(single, None, None, f"not measured in float64: {str(error).splitlines()[0]}")
    if _holds_nan(double):
        return Reference(single, None, None, "not measured in float64: the network computes NaN there")
    has_statistics = any(isinstance(m, _NormBase) for m in model.modules())
    training = None
    if has_statistics:
        training = observe(model, probe, torch.float64, masked=masked, batch_statistics=True)
    return Reference(single, double, training, "")


def _holds_nan(seen: Observation) -> bool:
    return any(bool(output.isnan().any()) for output in seen.outputs)


def prove(
    model: nn.Module, expected: Reference, kept: Mapping[str, Mapping[int, Tensor]], probe: Probe
) -> Equivalence:
    """Compares the cut network with what the masked one computed.

    Raises:
        NotEquivalentError: they differ by more than floating-point tolerance. Whatever the network's code
            raises on its new shapes passes through.
    """
    single = observe(model, probe, torch.float32, with_gradients=False)
    float32 = outputs_differ(single, expected.single)
    float64 = gradient = None
    if expected.double is not None:
        double = observe(model, probe, torch.float64)
        float64 = outputs_differ(double, expected.double)
        gradient = gradients_differ(double, expected.double, kept)
    if expected.training is not None:
        training = observe(model, probe, torch.float64, batch_statistics=True)
        float64 = max(float64 or 0.0, outputs_differ(training, expected.training))
        gradient = max(gradient or 0.0, gradients_differ(training, expected.training, kept))
    samples = max((t.shape[0] for t in expected.single.outputs if t.dim()), default=0)
    result = Equivalence(float32, float64, gradient, samples, expected.note, expected.approximation)
    if probe.is_quick and float32 <= QUICK_LIMIT:
        return result
    too_far = _too_far(result, FLOAT64_LIMIT, GRADIENT_LIMIT)
    largest = max(1.0 if error is None else error for error in (float64, gradient))
    if too_far and largest < SENSITIVE_LIMIT:
        too_far = _too_far(result, *_limits_of_a_sensitive(model, probe, expected.rounding))
    if too_far:
        raise NotEquivalentError(
            f"The cut network differs from the masked one: {'; '.join(too_far)}. The cut was undone and "
            "nothing changed. Code that computes with a fixed size (for example `C // self.n_head`) is the "
            "usual reason."
        )
    return result


def _limits_of_a_sensitive(
    model: nn.Module, probe: Probe, rounding: Callable[[], tuple[float, float]]
) -> tuple[float, float]:
    """Limits for a network that enlarges rounding: by what the smallest change of its weights does.

    Code that computes a step in a shorter type is allowed ten times what that rounds.
    """
    of_outputs, of_gradients = rounding()
    outputs, gradients = max(FLOAT64_LIMIT, 10 * of_outputs), max(GRADIENT_LIMIT, 10 * of_gradients)
    for batch_statistics in (False, True):
        as_it_is = observe(model, probe, torch.float64, batch_statistics=batch_statistics)
        nudged = observe(model, probe, torch.float64, batch_statistics=batch_statistics, nudge=2.0**-52)
        outputs = max(outputs, 100 * outputs_differ(nudged, as_it_is))
        gradients = max(gradients, 100 * gradients_differ(nudged, as_it_is, {}))
    return min(outputs, SENSITIVE_LIMIT), min(gradients, SENSITIVE_LIMIT)


def outputs_differ(ours: Observation, theirs: Observation) -> float:
    """Largest difference between outputs, relative; infinite if they are not the same ones."""
    if len(ours.outputs) != len(theirs.outputs):
        return float("inf")
    pairs = zip(ours.outputs, theirs.outputs, strict=True)
    return max((difference(a, b) for a, b in pairs), default=float("inf"))


def gradients_differ(
    ours: Observation, theirs: Observation, kept: Mapping[str, Mapping[int, Tensor]]
) -> float:
    """The same of gradients, `theirs` at the coordinates in `kept`."""
    if ours.gradients.keys() != theirs.gradients.keys():
        return float("inf")
    left = {name: select(gradient, kept.get(name, {})) for name, gradient in theirs.gradients.items()}
    return max((difference(gradient, left[name]) for name, gradient in ours.gradients.items()), default=0.0)


def _too_far(found: Equivalence, float64_limit: float, gradient_limit: float) -> list[str]:
    # float64 decides when it was measured; float32 then only shows rounding, which grows with depth.
    float32_limit = (
        FLOAT32_LIMIT if found.float64_error is None else 1e6 * float64_limit + 100 * FLOAT32_LIMIT
    )
    return [
        f"{name} by {error:.2g} (limit {limit:.2g})"
        for name, error, limit in (
            ("float32 outputs", found.float32_error, float32_limit),
            ("float64 outputs", found.float64_error, float64_limit),
            ("float64 gradients", found.gradient_error, gradient_limit),
        )
        if error is not None and not error <= limit
    ]
