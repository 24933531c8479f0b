"""Weight x gradient of one step, summed for every unit: what the tracker reads before an optimizer's step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.importance.accumulate import UnitReducer, by_anatomy_name, real_parts


@dataclass(frozen=True, eq=False)
class StepSums:
    """What one step says of every unit: float32 [units] each.

    Attributes:
        change: Sum of weight x gradient over the unit's consumers: the loss's change without it, first order.
        square: Sum of (weight x gradient)^2 over the unit's producers.
        has_change: 1 where all consumers are trained and one has a gradient, else 0.
        has_square: The same for producers.
        is_taken: 1 if the optimizer will really make the step and all sums are finite, else 0: a scalar.
    """

    change: Tensor
    square: Tensor
    has_change: Tensor
    has_square: Tensor
    is_taken: Tensor


class StepProducts:
    """Reads parameters and their gradients, as one optimizer sees them, on the device only.

    Args:
        anatomy: The network's units.
        named_parameters: The network's parameters by name.
        optimizer: Only what it trains is read.
    """

    def __init__(
        self, anatomy: Anatomy, named_parameters: Mapping[str, Tensor], optimizer: Optimizer
    ) -> None:
        self._optimizer = optimizer
        self._consumers = UnitReducer(anatomy, ("consumer",))
        self._producers = UnitReducer(anatomy, ("producer",))
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parameters = by_anatomy_name(anatomy, named_parameters)
        # Consumers and producers overlap: a parameter that both read is multiplied with its gradient only
        # once.
        names = dict.fromkeys(self._consumers.tensors + self._producers.tensors)
        self.parameters = {
            name: parameters[name]
            for name in names
            if name in parameters and id(parameters[name]) in trained and parameters[name].requires_grad
        }
        self.device = next((p.device for p in self.parameters.values()), torch.device("cpu"))
        # [units] each: a unit with a frozen parameter would get only a part of its sum, so it never counts.
        self._trained = {r: r.covered(self.parameters.keys()) for r in (self._consumers, self._producers)}
        self._taking_part: dict[frozenset[str], tuple[Tensor, Tensor]] = {}

    def sums(self) -> StepSums | None:
        """What this step says of every unit; None if no parameter has a gradient."""
        # Which parameters have a gradient decides which units were seen in this step.
        names = frozenset(name for name, p in self.parameters.items() if p.grad is not None)
        if not names:
            return None
        changes, squares = self._consumers.begin(self.device), self._producers.begin(self.device)
        for name in self.parameters:
            product = self._product(name)
            if product is not None:
                self._consumers.take(changes, name, product)
                # In place, and so after the consumers: they need the product itself.
                self._producers.take(squares, name, product.square_())
        change, square = self._consumers.end(changes), self._producers.end(squares)
        # Products carry the loss scale as the gradients do; it is taken out of the sums [units], not of
        # every gradient.
        scale, is_step = self._scale_and_step(change)
        # One sum that is not finite discards the step for all units. Its numbers are zeroed nevertheless: a
        # NaN would pass through a mean that is updated with weight 0.
        is_sound = torch.isfinite(change).all() & torch.isfinite(square).all()
        return StepSums(
            torch.nan_to_num(change, 0.0, 0.0, 0.0) * scale,
            torch.nan_to_num(square, 0.0, 0.0, 0.0) * scale.square(),
            *self._units_taking_part(names),
            is_step * is_sound,
        )

    def part(self, name: str, first: int, last: int) -> Tensor | None:
        """Weight x gradient of the flat elements from `first` to `last`; None without a gradient."""
        weight = self.parameters.get(name)
        if weight is None or weight.grad is None:
            return None
        gradient = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
        product = _times(weight.detach().reshape(-1)[first:last], gradient.reshape(-1)[first:last])
        product = product.float()
        return product * self._scale_and_step(product)[0]

    def _product(self, name: str) -> Tensor | None:
        weight = self.parameters[name]
        if weight.grad is None:
            return None
        gradient = weight.grad.to_dense() if weight.grad.is_sparse else weight.grad
        return _times(weight.detach(), gradient)

    def _units_taking_part(self, names: frozenset[str]) -> tuple[Tensor, Tensor]:
        """1 for units whose parameters are all trained and not all without gradient: float32 [units]."""
        if names not in self._taking_part:
            if len(self._taking_part) >= 64:  # a mixture of experts can show a new pattern at every step
                self._taking_part.clear()
            parts = (
                torch.from_numpy(trained & reducer.touched(names))
                for reducer, trained in self._trained.items()
            )
            change, square = (part.to(device=self.device, dtype=torch.float32) for part in parts)
            self._taking_part[names] = change, square
        return self._taking_part[names]

    def _scale_and_step(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """What to multiply gradients by, and whether the step will be made: two scalars on the device.

        Fused optimizers unscale inside their kernel and skip the step there; `GradScaler` leaves them the
        scale and the verdict as attributes for the time of the call. Others are only called with unscaled,
        finite gradients.
        """
        one = torch.ones((), dtype=like.dtype, device=like.device)
        scale = getattr(self._optimizer, "grad_scale", None)
        found_inf = getattr(self._optimizer, "found_inf", None)
        inverse = one if scale is None else scale.to(one).reciprocal()
        return inverse, one if found_inf is None else (found_inf.to(one) == 0).to(one.dtype).reshape(())


def _times(weight: Tensor, gradient: Tensor) -> Tensor:
    """Weight x gradient, real: of complex numbers, of both parts together."""
    if weight.is_complex():
        return (real_parts(weight) * real_parts(gradient)).sum(-1)
    # Half precision is widened before the product, which would underflow.
    return (weight if weight.dtype in (torch.float32, torch.float64) else weight.float()) * gradient
