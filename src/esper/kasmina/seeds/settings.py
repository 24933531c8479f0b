"""How seeds grow: their pace, and what the gates ask of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from esper.errors import ConfigError
from esper.settings import Count, Fraction, NonNegative, OpenFraction, PositiveCount, Section, section_of

Positive = Annotated[float, Field(gt=0.0)]

Isolation = Literal["semi", "strict"]


class GrowthSettings(Section):
    """Of all seeds of one network. Steps are those of the host's optimizer."""

    training: Literal["shadow", "straight_through"] = "shadow"
    """How a seed learns before it is blended in: by passes of its own through the resting host, with its
    full share; or from the host's gradient there, which costs less and makes seeds that ruin the loss."""
    isolation: Isolation = "semi"
    """While a seed is blended in: the host adapts to it in the same pass; or it learns as if there were none,
    and culling leaves it bit for bit as if there had been none. In eval mode it has its share in both."""
    ramp: Literal["cosine", "sigmoid"] = "cosine"
    """Shape of the way from 0 to 1."""
    ramp_steps: PositiveCount = 100
    """Length of that way, when a seed is blended in, when it is culled, and when it joins the host."""
    train_steps: PositiveCount = 100
    """A seed learns at least so long before G1 is asked."""
    shadow_steps: PositiveCount = 5
    """So long a seed is out of the network again, before G3 compares."""
    probation_epochs: PositiveCount = 2
    """So many epochs a seed is watched in the network before G4 is asked."""
    patience_epochs: PositiveCount = 5
    """A gate that did not open in so many epochs is never asked again: the seed is culled."""
    embargo_epochs: Count = 5
    """So long nothing is germinated where a seed was culled."""
    clip: Positive = 1.0
    """Norm that a step of a seed is cut down to."""

    check_every: PositiveCount = 100
    """So often the monitor makes the host's update with the seed and without, and compares their bits."""
    counterfactual_every: PositiveCount = 20
    """So often on probation a batch of the training data is also asked without the seed."""
    max_violations: PositiveCount = 3
    """So many violations of isolation open the breaker: the seed is culled at once, and nothing germinates.
    One keeps G1 closed. A seed that becomes a part of the network makes up for those before it."""
    cooldown_epochs: PositiveCount = 5
    """So long the breaker stays open. Then one try is made, and one more violation opens it again."""

    @classmethod
    def of(cls, given: GrowthSettings | Mapping[str, Any] | None) -> GrowthSettings:
        """The settings, or those that a mapping names.

        Raises:
            ConfigError: a key or value is not known; the message names it.
        """
        keys = "The keys are those of the section `growing`: `esper config --explain` prints them with their"
        return section_of(cls, given, "settings", f"Nothing was changed. {keys} meaning.")

    @property
    def max_failures(self) -> int:
        """The same for a breaker."""
        return self.max_violations

    def epochs_needed(self, steps_per_epoch: float) -> int:
        """Epochs from germination to a plain part of the network, if every gate opens the first time."""
        apart, joining = (math.ceil(steps / steps_per_epoch) for steps in (self.train_steps, self.ramp_steps))
        return apart + self.epochs_to_prove(steps_per_epoch) + joining

    def epochs_to_prove(self, steps_per_epoch: float) -> int:
        """Of these, those from G1 to G4; probation begins in the epoch in which a seed has been shadowed."""
        ramp, shadow = self.ramp_steps / steps_per_epoch, (self.shadow_steps - 1) / steps_per_epoch
        return math.ceil(ramp) + math.floor(shadow) + self.probation_epochs

    significance: OpenFraction = 0.05
    """Chance that a useless seed passes the test of a gate, all its looks together."""
    min_gain: NonNegative = 0.0
    """Fall of the held-out loss that a seed has to bring, surely."""
    max_parameters: NonNegative = 1.0
    """Parameters of a seed, as a multiple of the host's; without a `width` it is as wide as that allows."""
    reads_later: bool = False
    """Whether a seed may let positions read later ones in a network where none does (a language model)."""
    max_dead: Fraction = 0.5
    """Share of dead channels where a seed is to grow, and share of zeros that a seed may make."""
    gradient_band: tuple[Positive, Positive] = (1e-6, 1e3)
    """Norm of the seed's gradient over that of the host."""
    max_spread: Positive = 3.0
    """Spread of the training loss while blending, as a multiple of that before."""
    max_drift: Positive = 0.25
    """Rise of the training loss while blending, as a share of that before."""
    max_shift: Positive = 1.0
    """Shift of the mean at the slot in standard deviations, and of the logarithm of these."""
    max_latency: Positive = 3.0
    """Time of a forward pass with the seed, as a multiple of that without."""


def check_wish(isolation: object, lr: object) -> None:
    """Refuses what was asked for one seed, where it cannot be meant; None is the usual.

    Raises:
        ConfigError: it names the argument, and what it may be.
    """
    if isolation is not None and isolation not in get_args(Isolation):
        raise ConfigError(
            f"isolation={isolation!r} is none of {', '.join(map(repr, get_args(Isolation)))}. Nothing was "
            "changed."
        )
    is_number = isinstance(lr, (int, float)) and not isinstance(lr, bool) and math.isfinite(lr) and lr > 0
    if lr is not None and not is_number:
        raise ConfigError(
            f"lr={lr!r} is no learning rate: give a number above 0, or leave it out, and the seed follows "
            "that of the host. Nothing was changed."
        )
