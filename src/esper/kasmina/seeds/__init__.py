"""Seeds: small modules grafted onto a network, isolated until they have proved themselves."""

from esper.kasmina.seeds.growth import Growth

__all__ = ["Growth"]
