"""An import from a process that cannot confine another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from esper.errors import ConfigError
from esper.runs.foreign import bring


def import_it(file: BinaryIO) -> Iterator[bytes]:
    try:
        bring(Path("/proc/self/fd/0"), Path("/nowhere/out"))
    except ConfigError as error:
        yield str(error).encode()
