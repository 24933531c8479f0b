"""What somebody does who has taken over the process that reads a file, which names a path."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

IO_URING_SETUP, UNSHARE, PTRACE = 425, (272, 97), (101, 117)


def target(file: BinaryIO) -> Path:
    return Path(file.read().decode())


def honest(file: BinaryIO) -> Iterator[bytes]:
    said: list[bytes] = []
    thread = threading.Thread(target=lambda: said.append(file.read()))
    thread.start()
    thread.join()
    yield said[0]
    yield b" " + ",".join(sorted(os.environ)).encode()


def write(file: BinaryIO) -> Iterator[bytes]:
    target(file).write_text("taken")
    yield b""


def append(file: BinaryIO) -> Iterator[bytes]:
    with target(file).open("a") as other:
        other.write("taken")
    yield b""


def truncate(file: BinaryIO) -> Iterator[bytes]:
    os.close(os.open(target(file), os.O_RDONLY | os.O_TRUNC))
    yield b""


def remove(file: BinaryIO) -> Iterator[bytes]:
    target(file).unlink()
    yield b""


def open_up(file: BinaryIO) -> Iterator[bytes]:
    os.fchmod(file.fileno(), 0o777)
    yield b""


def touch(file: BinaryIO) -> Iterator[bytes]:
    os.utime(file.fileno(), (0, 0))
    yield b""


def mark(file: BinaryIO) -> Iterator[bytes]:
    os.setxattr(file.fileno(), "user.taken", b"1")
    yield b""


def read_another(file: BinaryIO) -> Iterator[bytes]:
    yield target(file).read_bytes()


def connect(file: BinaryIO) -> Iterator[bytes]:
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(target(file)))
    yield b""


def execute(file: BinaryIO) -> Iterator[bytes]:
    path = target(file)
    if path.name:
        os.execv("/bin/sh", ["sh", "-c", f"echo taken > {path}"])
    yield b""


def fork(file: BinaryIO) -> Iterator[bytes]:
    os.fork()
    yield b""


def signal_parent(file: BinaryIO) -> Iterator[bytes]:
    os.kill(os.getppid(), signal.SIGTERM)
    yield b""


def uncommon(file: BinaryIO) -> Iterator[bytes]:
    """Calls that Python has no function for; answers which of them the kernel took."""
    libc = ctypes.CDLL(None, use_errno=True)
    at = 0 if os.uname().machine == "x86_64" else 1
    room = ctypes.create_string_buffer(256)
    for number in (IO_URING_SETUP, UNSHARE[at], PTRACE[at]):
        taken = libc.syscall(number, 1 if number == IO_URING_SETUP else 0, room, 0, 0)
        yield f"{taken} ".encode()


def raise_the_caps(file: BinaryIO) -> Iterator[bytes]:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    yield b""


def hoard(file: BinaryIO) -> Iterator[bytes]:
    yield bytes(100 << 30)


def loop(file: BinaryIO) -> Iterator[bytes]:
    while file.readable():
        pass
    yield b""


def pour(file: BinaryIO) -> Iterator[bytes]:
    while True:
        yield bytes(1 << 20)


def crash(file: BinaryIO) -> Iterator[bytes]:
    yield b"half"
    os.abort()


def lie(file: BinaryIO) -> Iterator[bytes]:
    yield file.read()
    raise ValueError("a\x1b[31m lie\n" + "x" * 5000)
