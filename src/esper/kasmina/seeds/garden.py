"""Everything that the seeds of one network need, put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import NoneType
from typing import Any, Protocol

from torch import nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss
from esper.kasmina.seeds.asked import AskedGates
from esper.kasmina.seeds.bed import SeedBed
from esper.kasmina.seeds.course import Course, HasScale
from esper.kasmina.seeds.evidence import Probe
from esper.kasmina.seeds.followers import Followers
from esper.kasmina.seeds.gatekeeper import Gatekeeper
from esper.kasmina.seeds.isolation import GradientIsolationMonitor
from esper.kasmina.seeds.kernels import Kernels
from esper.kasmina.seeds.learning import Lessons
from esper.kasmina.seeds.nursery import Nursery
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.sowing import Sowing
from esper.kasmina.seeds.world import World
from esper.nissa import Event, FanOut, Sink
from esper.tezzeret import blueprints_in


class Ground(Protocol):
    """What holds a network, looks after its structure, and has seeds in it."""

    def admits(self) -> str:
        """Why the network as it stands could not be looked after; '' if it could."""

    @property
    def is_coupled(self) -> bool:
        """Whether samples of a batch meet in the loss."""

    @property
    def copies(self) -> Sequence[nn.Module]:
        """Of the network, in which the same grows, such as a running average."""


class _Nothing:
    """Nobody holds the network but the growth."""

    is_coupled = False
    copies: Sequence[nn.Module] = ()

    def admits(self) -> str:
        return ""


@dataclass(frozen=True, eq=False)
class Garden:
    """The parts of one growth.

    Attributes:
        bed: holds seeds.
        sowing: brings them in.
        lessons: teach them.
        course: leads them.
        monitor: watches their isolation.
    """

    bed: SeedBed
    sowing: Sowing
    lessons: Lessons
    course: Course
    monitor: GradientIsolationMonitor

    @classmethod
    def of(
        cls,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        batches: Sequence[Any],
        settings: GrowthSettings,
        *,
        scaler: HasScale | None,
        blueprints: Mapping[str, Callable[..., nn.Module]] | None,
        sink: Sink,
        within: Ground | None,
        alarm: Callable[[str], None],
        kernels: Kernels | None,
        world: World,
    ) -> Garden:
        """Puts them together; arguments as for `Growth`, with the bare network and the batches of `probe`."""
        telling, monitor = FanOut(sink), GradientIsolationMonitor()
        ground = within or _Nothing()

        def tell(event: Event) -> None:
            world.answer(NoneType, partial(telling.emit, event))

        nursery = Nursery(kernels, blueprints_in(blueprints), sink, world)
        bed = SeedBed(model, optimizer, nursery, settings, tell, world, ground.copies)
        probe = Probe(model, loss, batches, whole=ground.is_coupled)
        gates = AskedGates(Gatekeeper(model, probe, monitor, settings), world)
        followers = Followers(model, optimizer, world, ground.copies)
        course = Course(bed, gates, monitor, settings, scaler, alarm, followers, world)
        sowing = Sowing(bed, gates, monitor, settings, course.obstacle, course.programs, ground.admits, world)
        lessons = Lessons(model, optimizer, loss, bed.owners, monitor, settings)
        return cls(bed, sowing, lessons, course, monitor)
