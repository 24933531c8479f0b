"""Real Redis servers of a test's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_SECONDS = 30.0


@contextmanager
def redis_server(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server that nobody else reaches, and its process."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed: `make setup-system`"
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="esper-redis-") as name:
        socket = Path(name) / "socket"
        asked = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", name]
        with subprocess.Popen([*asked, *options], stdout=subprocess.PIPE, text=True) as process:
            try:
                _until_it_listens(process)
                yield f"unix://{socket}", process
            finally:
                process.kill()


def _until_it_listens(process: subprocess.Popen[str]) -> None:
    """Reads what it says until it is ready; one that never is, is killed, and that ends the reading too."""
    assert process.stdout is not None
    end = threading.Timer(_PATIENCE_SECONDS, process.kill)
    end.start()
    try:
        said = list[str]()
        for line in process.stdout:
            said.append(line)
            if "ready to accept connections" in line.lower():
                return
        raise AssertionError("redis-server does not listen: " + "".join(said))
    finally:
        end.cancel()
