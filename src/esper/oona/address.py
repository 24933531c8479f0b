"""Which bus an address means."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from esper.errors import ConfigError
from esper.oona.bus import Bus, Limits
from esper.oona.journal import JournalBus
from esper.oona.streams import PASSWORD, RedisBus, missing

_SERVERS = ("redis", "rediss", "unix")
_FORMS = "A bus is a file that ends in .sqlite, or redis://host:port/db."


def checked_address(address: str) -> str:
    """The address of a bus.

    Raises:
        ConfigError: it is none, or holds a password.
    """
    scheme, colon, _ = address.partition("://")
    if not colon:
        if address.endswith(".sqlite") and "\0" not in address:
            return address
        raise ConfigError(f"{address!r} is no bus. {_FORMS}")
    if scheme not in _SERVERS:
        raise ConfigError(f"{address!r} is no bus: nothing is known of {scheme}://. {_FORMS}")
    try:
        parts = urlsplit(address)
        is_complete = bool(parts.path if scheme == "unix" else parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ConfigError(f"This is no address of a Redis server: {error}. {_FORMS}") from error
    if parts.password is not None or "password=" in parts.query:
        # Addresses are shown, and kept in run directories.
        raise ConfigError(f"The address of a bus holds no password: put it into {PASSWORD}.")
    if not is_complete:
        raise ConfigError(f"{address!r} names no server. {_FORMS}")
    return address


def check_installed(address: str) -> None:
    """Refuses a bus that this machine cannot open, before anything is published.

    Raises:
        ConfigError: the library for it is not installed.
    """
    if "://" in address and find_spec("redis") is None:
        raise ConfigError(missing(address))


def open_bus(address: str, limits: Limits | None = None) -> Bus:
    """Opens the bus at an address: a journal of this machine, or a Redis server.

    Raises:
        ConfigError: it is no address, or what it needs is not installed.
        BusError: it cannot be used.
    """
    checked_address(address)
    if "://" in address:
        return RedisBus(address, limits)
    return JournalBus(Path(address), limits)
