"""The signals of a process as something to wait for."""

from __future__ import annotations

import signal
import socket
from contextlib import suppress


class Alarm:
    """Becomes readable when a child of this process ends, or when the process is told to end."""

    is_behind = False

    def __init__(self) -> None:
        self._heard, self._rings = socket.socketpair()
        self._heard.setblocking(False)
        self._rings.setblocking(False)
        self.is_told_to_end = False
        signal.signal(signal.SIGTERM, self._on_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only a signal with a handler rings
        signal.set_wakeup_fd(self._rings.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self._heard.fileno()

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self._heard.recv(4096):
                pass

    def close(self) -> None:
        """Signals do again what they do by default; a fork that sets none of its own needs that."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._heard.close()
        self._rings.close()

    def _on_end(self, *_: object) -> None:
        self.is_told_to_end = True
