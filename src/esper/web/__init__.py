"""The page of a folder of runs, live and afterwards, with health and metrics: `esper serve`."""

from esper.web.server import Address, is_local, serve

__all__ = ["Address", "is_local", "serve"]
