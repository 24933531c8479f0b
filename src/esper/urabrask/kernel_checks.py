"""What is asked about a kernel before any network gets it: from measured numbers to answers, purely."""

from __future__ import annotations

from dataclasses import dataclass

from esper.urabrask.verdict import Check


@dataclass(frozen=True)
class KernelLimits:
    """What a kernel may take.

    Attributes:
        size_bytes: of its parameters and buffers.
        seconds: of a forward and a backward pass.
    """

    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class KernelMeasures:
    """What was measured of a kernel at birth, on random activations; None: it could not be.

    Attributes:
        size_bytes: of parameters and buffers.
        foreign: tensors in it that were there before it was made.
        misfits: of shape, type and device of its output, how many are not those of its input.
        changed: entries that h + f(h) has not in common with h.
        not_finite: entries of its output that are no numbers.
        bad_gradients: entries of the gradients of its parameters that are no numbers.
        touched: entries of its input that it has changed.
        left_behind: tensors that more of its passes leave in memory.
        forward_seconds: of a pass, and `backward_seconds` of its gradient.
    """

    size_bytes: int | None = None
    foreign: int | None = None
    misfits: int | None = None
    changed: int | None = None
    not_finite: int | None = None
    bad_gradients: int | None = None
    touched: int | None = None
    left_behind: int | None = None
    forward_seconds: float | None = None
    backward_seconds: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of a forward and a backward pass."""
        if self.forward_seconds is None or self.backward_seconds is None:
            return None
        return self.forward_seconds + self.backward_seconds


def check_kernel(measured: KernelMeasures, limits: KernelLimits) -> tuple[Check, ...]:
    """Every question with its number; what was not measured does not pass."""
    return (
        _at_most("size", measured.size_bytes, limits.size_bytes, "it takes {value:.0f} bytes of {limit:.0f}"),
        _at_most("ownership", measured.foreign, 0, "{value:.0f} of its tensors are not its own"),
        _at_most(
            "shape",
            measured.misfits,
            0,
            "its output is not of the shape, type and device of its input ({value:.0f} of 3 differ)",
        ),
        _at_most("identity", measured.changed, 0, "it changes {value:.0f} activations at birth"),
        _at_most("output", measured.not_finite, 0, "{value:.0f} entries of its output are no numbers"),
        _at_most("gradients", measured.bad_gradients, 0, "{value:.0f} of its gradients are no numbers"),
        _at_most("input", measured.touched, 0, "it changes {value:.0f} entries of its input"),
        _at_most("leak", measured.left_behind, 0, "its passes leave {value:.0f} tensors behind in memory"),
        _at_most(
            "latency",
            measured.seconds,
            limits.seconds,
            "a pass and its gradient take {value:.3g} s of {limit:g}",
        ),
    )


def _at_most(name: str, value: float | None, limit: float, text: str) -> Check:
    if value is None:
        return Check(name, False, None, float(limit), f"{name} was not measured")
    return Check(name, value <= limit, float(value), float(limit), text.format(value=value, limit=limit))
