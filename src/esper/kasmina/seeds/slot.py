"""One place of a network where a seed can be: its module, what is in it now, and what was measured of it."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint import OptimizerState
from esper.kasmina.seeds.layer import Grown, KasminaLayer, ramp
from esper.kasmina.seeds.lesson import Lesson, OpenStep
from esper.kasmina.seeds.owners import SeedOptimizer
from esper.kasmina.seeds.place import Place
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.settings import GrowthSettings, Isolation
from esper.leyline import SeedLifecycleStage as Stage
from esper.leyline import decode, encode
from esper.leyline.wire import messages

_WINDOW = 200
"""Training losses that are kept, to tell unrest from."""


@dataclass
class Track:
    """What a slot remembers in plain values.

    Attributes:
        path: of the module.
        stage: how far its seed has come.
        generation: seeds that there were, this one included.
        blueprint: what the seed is made by, and `options` and `shape` of what.
        lr: the seed's own learning rate; None: the host's.
        in_stage: optimizer steps since the stage began, and `epochs` that ended.
        looks: how often the gate of this stage was asked.
        idle: epochs in a row with steps of the host, and without a lesson.
        is_taught: whether there was a lesson since an epoch ended.
        contest: number of the contest that it is in; 0: it is in none.
        rivals: how many were in it.
        passes: of the seed's own, which its randomness counts on from.
        position: steps along the way of alpha, and `joined` along that of gamma.
        is_settled: whether the seed is a part of the network that nobody here looks after any more.
        evidence: what the last gate said, or why the seed was culled.
        culled: why the last seed that was culled here was.
    """

    path: str
    stage: Stage = Stage.UNKNOWN
    generation: int = 0
    blueprint: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    isolation: Isolation = "semi"
    lr: float | None = None
    in_stage: int = 0
    epochs: int = 0
    looks: int = 0
    idle: int = 0
    is_taught: bool = False
    contest: int = 0
    rivals: int = 1
    passes: int = 0
    position: int = 0
    joined: int = 0
    is_paused: bool = False
    is_settled: bool = False
    evidence: str = ""
    culled: str = ""

    def sow(
        self,
        blueprint: str,
        options: Mapping[str, Any],
        shape: Iterable[int],
        dtype: torch.dtype,
        isolation: Isolation,
        lr: float | None,
        contest: int,
    ) -> None:
        """Another seed is to be made here."""
        self.blueprint, self.options = blueprint, dict(options)
        self.shape, self.dtype = tuple(shape), str(dtype).removeprefix("torch.")
        self.isolation, self.lr = isolation, lr
        self.contest, self.rivals = contest, 1
        self.generation += 1
        self.passes = self.position = self.joined = 0
        self.is_paused = self.is_taught = False
        self.idle = 0

    @property
    def recipe(self) -> Recipe:
        """How its seed is made."""
        return Recipe(self.path, self.generation, self.blueprint, self.options, self.shape, self.dtype)

    @property
    def number(self) -> int:
        """What the next pass of the seed draws its random numbers from."""
        return self.recipe.number + self.passes


class Slot:
    """A place, and the seed in it if there is one.

    Attributes:
        layer: the seed on its host, in the network or beside it; None: there is none.
        learner: the optimizer of the seed; None: the host owns it, or there is none.
        before: training losses of the host while the seed was not in it.
        since: those since it is blended in.
        gains: how much higher they were without the seed, while it was on probation.
        host_norm: of the host's last gradient that was looked at.
        step: what was gathered for the step that the host makes next.
        leak: how the seed was seen to reach the host since the last step; '' if it was not.
    """

    def __init__(
        self, model: nn.Module, track: Track, settings: GrowthSettings, copies: Iterable[nn.Module]
    ) -> None:
        self.place = Place(model, track.path, copies)
        self.track = track
        self._settings = settings
        self.layer: KasminaLayer | None = None
        self.learner: SeedOptimizer | None = None
        self.before: deque[Tensor] = deque(maxlen=_WINDOW)
        self.since: deque[Tensor] = deque(maxlen=_WINDOW)
        self.gains: deque[Tensor] = deque(maxlen=_WINDOW)
        self.host_norm: Tensor | None = None
        self.step = OpenStep()
        self.leak = ""
        self._last: list[weakref.ref[Any]] = []

    @property
    def path(self) -> str:
        return self.track.path

    @property
    def stage(self) -> Stage:
        return self.track.stage

    @property
    def seed(self) -> KasminaLayer:
        """The seed on its host; only asked for where there is one."""
        assert self.layer is not None  # noqa: S101 (the timetable sees to it)
        return self.layer

    @property
    def is_isolated(self) -> bool:
        """Whether the host has to learn as if there were no seed."""
        is_strict = self.stage is Stage.BLENDING and self.track.isolation == "strict"
        return is_strict or self.stage in (Stage.TRAINING, Stage.SHADOWING)

    @property
    def is_served(self) -> bool:
        """Whether the network answers with the seed in it, before the seed has become a part of it."""
        is_in = self.stage in (Stage.BLENDING, Stage.PROBATIONARY, Stage.CULLED)
        return is_in and self.share > 0 and not self.track.is_paused

    @property
    def learns_apart(self) -> bool:
        """Whether the seed learns in passes of its own."""
        is_apart = self.stage is Stage.TRAINING and self._settings.training == "shadow"
        return is_apart or (self.is_isolated and self.stage is Stage.BLENDING)

    def is_checked_now(self, every: int) -> bool:
        """Whether lessons of this step look at what the seed does to the host; `every` so many steps do."""
        return self.is_isolated and not self.track.is_paused and self.track.in_stage % every == 0

    @property
    def share(self) -> float:
        """Alpha in the network: what is served."""
        return ramp(self.track.position / self._settings.ramp_steps, self._settings.ramp)

    @property
    def faults(self) -> int:
        """Passes and steps in which the seed was no number; asks the device."""
        learned = 0 if self.learner is None else int(self.learner.faults)
        return learned + (0 if self.layer is None else int(self.layer.faults))

    @property
    def complaint(self) -> str:
        """What is wrong with what the seed made since it was germinated, in words; '' if nothing is."""
        if not (faults := self.faults):
            return ""
        if self.layer is not None and self.layer.problem:
            return f"It failed: {self.layer.problem}."
        return f"It was no number, or failed, in {faults} pass(es) or step(s)."

    def parameters(self) -> dict[str, Tensor]:
        """Those of the seed, by their qualified names."""
        return {f"{self.path}.seed.{name}": p for name, p in self.seed.seed.named_parameters()}

    def own(self) -> set[Tensor]:
        """The parameters of the seed."""
        module = self.layer or self.place.module
        return set(module.seed.parameters()) if isinstance(module, (KasminaLayer, Grown)) else set()

    def apart(self) -> Iterable[nn.Module]:
        """The modules that a pass of the seed's own may change."""
        return (self.seed, *self.seed.seed.modules())

    def enter(self, stage: Stage) -> None:
        """A stage begins."""
        self.track.stage = stage
        self.track.in_stage = self.track.epochs = self.track.looks = 0

    def settle(self) -> None:
        """Brings the place and the three scalars in line with the stage."""
        layer, track = self.layer, self.track
        if layer is None:
            return
        is_fossil = self.stage in (Stage.FOSSILIZED, Stage.TERMINATED)
        is_straight = self.stage is Stage.TRAINING and self._settings.training == "straight_through"
        layer.alpha.fill_(self.share)
        layer.beta.fill_(float(is_straight))
        layer.gamma.fill_(ramp(track.joined / self._settings.ramp_steps, self._settings.ramp))
        layer.number = track.number if is_straight else None
        layer.is_hidden = self.is_isolated and not is_straight
        layer.is_joined, layer.is_paused = is_fossil, track.is_paused
        if self.stage is Stage.CULLED:
            layer.seed.requires_grad_(False)
        is_in = self.stage in (Stage.BLENDING, Stage.PROBATIONARY, Stage.CULLED) or is_fossil or is_straight
        # At the end of its way it is whole, also where it is read with a longer ramp than it went.
        is_whole = track.joined >= self._settings.ramp_steps or self.stage is Stage.TERMINATED
        if is_fossil and is_whole:
            self.place.stand(Grown(layer.host, layer.seed))
            self.layer = None
        elif is_in:
            layer.follow()
            self.place.stand(layer)
        elif self.place.module is layer:
            self.place.stand(layer.host)

    @property
    def is_gathering(self) -> bool:
        """Whether there is something for the next step of the host already."""
        return self.step.is_begun or (self.learner is not None and self.learner.is_gathering)

    def count(self, lesson: Lesson) -> None:
        """The host's backward pass over the batch of a lesson begins."""
        if lesson.learner is self.learner:  # else the seed has gone meanwhile
            self.step.count(lesson)

    def drop(self) -> None:
        """Forgets what was gathered for a step that is not made."""
        self.step.drop()
        if self.learner is not None:
            self.learner.drop()

    def remove(self) -> None:
        """Takes the seed out and lets go of all that is its own."""
        if isinstance(module := self.place.module, (KasminaLayer, Grown)):
            self.place.stand(module.host)
        if self.learner is not None:
            self.learner.close()
        if self.layer is not None:
            self._last = [weakref.ref(held) for held in (self.layer.seed, *self.own())]
        self.layer = self.learner = self.host_norm = None
        self.step.drop()
        self.before.clear()
        self.since.clear()
        self.gains.clear()

    @property
    def is_free(self) -> bool:
        """Whether nothing holds the seed that was here last."""
        return all(held() is None for held in self._last)

    @contextmanager
    def grafted(self, share: float = 1.0) -> Iterator[None]:
        """The seed in its place with this share, whatever its stage is."""
        layer, before = self.seed, self.place.module
        scalars, was = (layer.alpha, layer.beta), (layer.is_hidden, layer.is_paused, layer.number)
        # Other tensors in their place: the host's graph may have saved these.
        layer.alpha, layer.beta = torch.full_like(layer.alpha, share), torch.zeros_like(layer.beta)
        layer.is_hidden, layer.is_paused, layer.number = False, False, None
        layer.follow()
        self.place.module = layer
        try:
            yield
        finally:
            self.place.module = before
            layer.alpha, layer.beta = scalars
            layer.is_hidden, layer.is_paused, layer.number = was

    @contextmanager
    def as_part(self) -> Iterator[None]:
        """The seed as the part of the network that it may become."""
        layer, before = self.seed, self.place.module
        self.place.module = Grown(layer.host, layer.seed)
        try:
            yield
        finally:
            self.place.module = before

    @contextmanager
    def absent(self) -> Iterator[None]:
        """The network without this seed."""
        before = self.place.module
        self.place.module = self.seed.host
        try:
            yield
        finally:
            self.place.module = before

    def message(self) -> messages.SeedState:
        """How the seed stands, for whoever asks from another process; the device is not asked."""
        track = self.track
        return messages.SeedState(
            slot=track.path,
            stage=messages.SeedLifecycleStage.Name(track.stage),
            blueprint=track.blueprint,
            generation=track.generation,
            alpha=self.share,
            steps_in_stage=track.in_stage,
            epochs_in_stage=track.epochs,
            is_paused=track.is_paused,
            evidence=track.evidence,
        )

    def state(self) -> dict[str, Any]:
        """All that it remembers; optimizer state that the host owns is with the host's optimizer."""
        living, learner = self.layer, self.learner
        return {
            "track": encode(self.track),
            "tensors": living.seed.state_dict() if living else None,
            "faults": living.faults if living else None,
            "copies": [one.values() for one in self.place.along] if living and living.is_joined else [],
            "optimizer": learner.optimizer.state_dict() if learner else None,
            "learned": [learner.steps, learner.faults, learner.norm] if learner else None,
            "windows": [[float(value) for value in row] for row in (self.before, self.since, self.gains)],
            "host_norm": self.host_norm,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Values for the seed that stands here, rebuilt by its track."""
        if self.layer is not None and saved["tensors"] is not None:
            self.layer.seed.load_state_dict(saved["tensors"])
        if self.layer is not None and saved["faults"] is not None:
            self.layer.faults.copy_(saved["faults"])
        for one, values in zip_longest(self.place.along, saved.get("copies", ())):
            one.load(values)  # older runs had none
        if self.learner is not None:
            OptimizerState(self.learner.optimizer).load(saved["optimizer"])
            self.learner.steps = saved["learned"][0]
            for mine, theirs in zip(
                (self.learner.faults, self.learner.norm), saved["learned"][1:], strict=True
            ):
                mine.copy_(theirs)
        for window, values in zip((self.before, self.since, self.gains), saved["windows"], strict=True):
            window.extend(torch.tensor(value) for value in values)
        self.host_norm = saved["host_norm"]
        self.settle()


def track_of(saved: Mapping[str, Any]) -> Track:
    """The plain values in what `Slot.state` returned."""
    return decode(Track, saved["track"])
