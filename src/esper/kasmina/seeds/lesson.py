"""What a seed gets out of one batch: it counts with the step that the host makes of it, or not at all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from esper.kasmina.seeds.owners import SeedOptimizer


@dataclass(eq=False)
class Lesson:
    """What was learned and measured on one batch.

    Attributes:
        learner: of the seed that had it; None: it has none.
        notes: what was measured, each beside the window that it is for.
        gradients: of a pass of the seed's own; None: there was no such pass.
    """

    learner: SeedOptimizer | None
    notes: list[tuple[deque[Tensor], Tensor]] = field(default_factory=list)
    gradients: tuple[Tensor | None, ...] | None = None


class OpenStep:
    """What one seed has for the step that the host makes next.

    A script may drop what it has gathered: an odd batch, a loss that is no number, a step that a GradScaler
    skips. Then the seed drops its part of it. A lesson is counted when the host's backward pass over its
    batch begins; before that nobody can know whether there will be one.
    """

    def __init__(self) -> None:
        self._counted: list[Lesson] = []
        self._last: Lesson | None = None

    @property
    def is_begun(self) -> bool:
        """Whether something was gathered since the last step."""
        return bool(self._counted)

    @property
    def last(self) -> Lesson | None:
        """The lesson that was given last, if it is for this step."""
        return self._last

    def offer(self, lesson: Lesson) -> None:
        """A lesson was given, and the host's backward pass may follow."""
        self._last = lesson

    def count(self, lesson: Lesson) -> None:
        """The host's backward pass over the batch of a lesson begins."""
        if lesson in self._counted:  # a graph that is gone through twice
            return
        self._counted.append(lesson)
        if lesson.learner is not None and lesson.gradients is not None:
            lesson.learner.learn(lesson.gradients)
            lesson.gradients = None  # added up there

    def close(self) -> None:
        """The host makes its step: what was measured for it counts from now on."""
        if not self._counted and self._last is not None:  # the host's gradient comes from another tensor
            self.count(self._last)
        for lesson in self._counted:
            for window, value in lesson.notes:
                window.append(value)
        self.drop()

    def drop(self) -> None:
        """Forgets what belongs to no step."""
        self._counted, self._last = [], None
