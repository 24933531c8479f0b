"""How far apart two computations may lie and still be the same one: the only place that says so."""

from __future__ import annotations

from dataclasses import dataclass, replace

FLOAT32_LIMIT = 1e-5
FLOAT64_LIMIT = 1e-12
GRADIENT_LIMIT = 1e-9
"""In float64: on their way back gradients lose a few digits more than outputs, by cancellation."""
QUICK_LIMIT = 1e-3
"""In float32, where a proof follows: a wrong cut is wrong by more."""
RUNTIME_LIMIT = 1e-4
"""In float32, where another runtime computes one side: it adds in another order."""
_SENSITIVE_LIMIT = 1e-6
"""In float64: beyond this no network is sensitive enough for rounding to explain a difference."""


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
            known = [error for error in (a, b) if error is not None]
            return max(known, default=None)

        return replace(
            self,
            float32_error=max(first.float32_error, self.float32_error),
            float64_error=larger(first.float64_error, self.float64_error),
            gradient_error=larger(first.gradient_error, self.gradient_error),
        )


@dataclass(frozen=True)
class Tolerance:
    """The largest relative differences that are no difference: in float64, and in float32 by itself."""

    outputs: float = FLOAT64_LIMIT
    gradients: float = GRADIENT_LIMIT
    single: float = FLOAT32_LIMIT

    def widened(self, rounding: tuple[float, float], nudged: tuple[float, float]) -> Tolerance:
        """The tolerance for a network that enlarges rounding.

        Args:
            rounding: what its code rounds in float64 by naming a shorter type, in outputs and in gradients;
                it is allowed ten times that.
            nudged: what the smallest change of its weights does to both; it is allowed a hundred times that.
        """
        # At least the usual limit, at most what rounding can explain in any network.
        outputs, gradients = (
            min(max(limit, 10 * own, 100 * change), _SENSITIVE_LIMIT)
            for limit, own, change in zip((self.outputs, self.gradients), rounding, nudged, strict=True)
        )
        return Tolerance(outputs, gradients)

    def exceeded(self, found: Equivalence) -> tuple[str, ...]:
        """What differs by more, in words; nothing where both are the same computation.

        Where float64 was measured it decides, and float32 only shows rounding, which grows with depth.
        """
        # With the usual limits about 1e-3.
        single = self.single if found.float64_error is None else 1e6 * self.outputs + 100 * self.single
        return tuple(
            f"{name} by {error:.2g} (limit {limit:.2g})"
            for name, error, limit in (
                ("float32 outputs", found.float32_error, single),
                ("float64 outputs", found.float64_error, self.outputs),
                ("float64 gradients", found.gradient_error, self.gradients),
            )
            # Written so that NaN exceeds every limit.
            if error is not None and not error <= limit
        )


def may_be_rounding(found: Equivalence) -> bool:
    """Whether a network could be so sensitive that this difference comes from rounding alone."""
    # Without float64 nothing tells rounding from a wrong cut.
    largest = 1.0 if found.float64_error is None else max(found.float64_error, found.gradient_error or 0.0)
    return largest < _SENSITIVE_LIMIT
