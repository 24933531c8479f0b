"""What a run counts in: epochs, or periods of so many optimizer steps; and how many are planned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral

from esper.errors import ConfigError

_EPOCH = re.compile(r"\b(?:an )?([Ee])poch(s?)\b")


@dataclass(frozen=True)
class Pace:
    """How a training script counts. A period is what decisions are made at the end of; an epoch is one kind.

    Attributes:
        epochs: how many epochs are planned; None if nobody says.
        steps: how many optimizer steps are planned; None if nobody says.
        every_n_steps: optimizer steps of one period; None if periods are epochs.
    """

    epochs: int | None = None
    steps: int | None = None
    every_n_steps: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (not isinstance(value, Integral) or value < 1):
                raise ConfigError(
                    f"{name} is a whole number from 1 on, and {value!r} is none. Nothing was changed."
                )
        if self.epochs is not None and (self.steps is not None or self.every_n_steps is not None):
            raise ConfigError(
                "A run is counted in epochs (epochs=, end_epoch) or in optimizer steps (steps=, "
                "every_n_steps=, end_step), and both were given. Nothing was changed. Say its length as "
                "steps= where it is counted in steps."
            )

    @property
    def unit(self) -> str:
        """What a period is, in words, several of them."""
        n = self.every_n_steps
        return "epochs" if n is None else f"periods of {n} optimizer step{'s' if n > 1 else ''}"

    @property
    def periods(self) -> int | None:
        """Periods that are planned, as far as that is known before the first one has ended."""
        if self.every_n_steps is None or self.steps is None:
            return self.epochs
        return -(-self.steps // self.every_n_steps)

    def periods_after(self, epoch: int, step: int) -> int | None:
        """The same when `epoch` periods have ended after `step` optimizer steps."""
        if self.periods is not None or self.steps is None or step < 1:
            return self.periods
        return max(round(self.steps * epoch / step), 1)

    def after(self, before: Pace) -> Pace:
        """What holds for a run that was begun at the pace `before`, when this is asked for as it goes on."""
        if self == Pace():
            return before
        if self.every_n_steps is None and self.epochs is None:  # only another length
            return Pace(steps=self.steps, every_n_steps=before.every_n_steps)
        return self

    def is_over(self, step: int, last: int) -> bool:
        """Whether a period has ended at `step`, when the one before ended at `last`."""
        return self.every_n_steps is not None and step // self.every_n_steps > last // self.every_n_steps

    def require_epochs(self) -> None:
        """Refuses a call of `end_epoch` where periods are counted in steps.

        Raises:
            ConfigError: they are.
        """
        if self.every_n_steps is not None:
            raise ConfigError(
                f"This run counts in {self.unit}: call session.end_step(...) after every optimizer step, and "
                "end_epoch never. Nothing was changed."
            )

    def require_steps(self) -> None:
        """Refuses a call of `end_step` where periods are epochs.

        Raises:
            ConfigError: they are.
        """
        if self.every_n_steps is None:
            raise ConfigError(
                "This run counts in epochs: call session.end_epoch(...) when one has ended, or give "
                "attach(every_n_steps=...) to decide by steps. Nothing was changed."
            )

    def says(self, text: str) -> str:
        """A sentence about epochs in the words of this run."""
        if self.every_n_steps is None:
            return text

        def period(match: re.Match[str]) -> str:
            article = "a " if match[0].startswith("an ") else ""
            return f"{article}{'P' if match[1] == 'E' else 'p'}eriod{match[2]}"

        words = _EPOCH.sub(period, text).replace("end_epoch", "end_step")
        return words.replace("attach(periods=", "attach(steps=")
