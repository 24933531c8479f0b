"""Seeds: small modules grafted onto a network, isolated until they have proved themselves."""

from esper.kasmina.seeds.gates import GateResult
from esper.kasmina.seeds.growth import Growth
from esper.kasmina.seeds.kernels import Kernels
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.settings import GrowthSettings, Isolation
from esper.kasmina.seeds.slot import Slot
from esper.kasmina.seeds.world import ALONE, World
from esper.tezzeret import Blueprint

__all__ = [
    "ALONE",
    "Blueprint",
    "GateResult",
    "Growth",
    "GrowthSettings",
    "Isolation",
    "Kernels",
    "Recipe",
    "Slot",
    "World",
]
