"""Real Redis servers of a test's own."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis

_TRIES = 500


@contextmanager
def redis_server(*options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a server that nobody else reaches, and its process."""
    program = shutil.which("redis-server")
    assert program, "redis-server is not installed: `make setup-system`"
    # The path of a socket must be short.
    with tempfile.TemporaryDirectory(prefix="esper-redis-") as name:
        socket = Path(name) / "socket"
        asked = [program, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", name]
        with subprocess.Popen([*asked, *options], stdout=subprocess.DEVNULL) as process:
            try:
                _until_it_answers(str(socket))
                yield f"unix://{socket}", process
            finally:
                process.kill()


def _until_it_answers(socket: str) -> None:
    for _ in range(_TRIES):
        with suppress(redis.ConnectionError), redis.Redis(unix_socket_path=socket) as client:
            try:
                client.ping()
            except redis.AuthenticationError:
                return  # it answers, and asks who we are
            return
    raise AssertionError("redis-server does not answer")
