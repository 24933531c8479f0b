"""The processes that train one network together, as its seeds see them: all take the same course.

Every process has the seeds, and does with them what every other does, at the same step. What has to be asked
(a gate, an audit that writes down what happens) the first process asks, and all hear the answer; what a batch
has taught a seed is averaged, as the gradients of the host are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

_Answer = TypeVar("_Answer")


class World(Protocol):
    """All processes of one network. Each method is called by all of them, in the same order."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that is asked."""

    def answer(self, kind: Any, ask: Callable[[], _Answer]) -> _Answer:
        """What the first process answers; what it raises all raise.

        Args:
            kind: the type of the answer, as `esper.leyline.encode` takes it.
            ask: called in the first process only.
        """

    def first_word(self, word: str) -> str:
        """What the first of those has to say that have something to say; '' if none has."""

    def made(self, make: Callable[[], nn.Module], name: str) -> nn.Module:
        """A module that every process makes, with the values that it has in the first; or none has one.

        Args:
            make: makes it in this process; what it raises in one of them all raise.
            name: of what is made, in words.

        Raises:
            RankDivergence: one has made a module of another form.
        """

    def averaged(
        self, parameters: Sequence[Tensor], gradients: Mapping[Tensor, Tensor]
    ) -> Mapping[Tensor, Tensor]:
        """The mean of the gradients over all processes, for every parameter that has one in any of them."""

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Gives tensors the values that they have in the first process."""

    def follow(self) -> None:
        """The network has other parameters now: what averages the gradients of the host takes them up."""


class Alone:
    """The only process that trains a network."""

    is_first = True

    def answer(self, kind: Any, ask: Callable[[], _Answer]) -> _Answer:  # noqa: ARG002
        return ask()

    def first_word(self, word: str) -> str:
        return word

    def made(self, make: Callable[[], nn.Module], name: str) -> nn.Module:  # noqa: ARG002
        return make()

    def averaged(
        self,
        parameters: Sequence[Tensor],  # noqa: ARG002
        gradients: Mapping[Tensor, Tensor],
    ) -> Mapping[Tensor, Tensor]:
        return gradients

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """They have them."""

    def follow(self) -> None:
        """There is nothing that would have to."""


ALONE: World = Alone()
