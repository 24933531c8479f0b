"""The filter of system calls: which are allowed, and which error answers each of the others.

The error tells what was wanted: a read-only file system to who writes, no network to who connects. What
reading a file does not need gets "no such call", so that the C library falls back to what it does need.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esper.workers.confinement.calls import CONNECTING, JUDGED, READING, STARTING, WRITING

WRITE, CONNECT, START, UNKNOWN = errno.EROFS, errno.ENETUNREACH, errno.EPERM, errno.ENOSYS
NO_TERMINAL = errno.ENOTTY

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16
_X32 = 0x40000000
"""The other calling convention of x86-64: the same calls by other numbers."""
_CLONE_THREAD = 0x10000
_F_GETFD, _F_SETFD, _F_GETFL = 1, 2, 3
_OPENS_TO_WRITE = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_INSTRUCTION = struct.Struct("=HBBI")


@dataclass(frozen=True)
class Machine:
    """A processor as the filter sees it: the kernel's name for it, and its column in the tables."""

    audit_name: int
    column: int


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(0xC000003E, 0),
    "aarch64": Machine(0xC00000B7, 1),
}
"""By `platform.machine()`. Both are little-endian: the low half of an argument comes first."""


def program(machine: Machine, process: int) -> bytes:
    """The filter as the kernel takes it.

    Args:
        machine: what it is for; calls of any other kind end the process.
        process: the id of the process that is confined: it may signal its own threads.
    """
    judged = {name: numbers[machine.column] for name, numbers in JUDGED.items()}
    rules = {
        "open": _unless_any(1, _OPENS_TO_WRITE, WRITE),
        "openat": _unless_any(2, _OPENS_TO_WRITE, WRITE),
        "clone": _if_any(0, _CLONE_THREAD, START),
        "fcntl": _if_one_of(1, (_F_GETFD, _F_SETFD, _F_GETFL)),
        "tgkill": _if_one_of(0, (process,)),
        "prlimit64": _if_null(2),
        "ioctl": _answer(_ERROR | NO_TERMINAL),
    }
    parts = [_of_machine(machine), *(_on(judged[name], rule) for name, rule in rules.items())]
    for table, verdict in (
        (READING, _ALLOW),
        (WRITING, _ERROR | WRITE),
        (CONNECTING, _ERROR | CONNECT),
        (STARTING, _ERROR | START),
    ):
        parts += [_on(numbers[machine.column], _answer(verdict)) for numbers in table.values()]
    return b"".join([*parts, _answer(_ERROR | UNKNOWN)])


def _of_machine(machine: Machine) -> bytes:
    return b"".join(
        [
            _step(_LOAD, _MACHINE_AT),
            _step(_EQUAL, machine.audit_name, then=1),
            _answer(_KILL),
            _step(_LOAD, _NUMBER_AT),
            _step(_AT_LEAST, _X32, otherwise=1),
            _answer(_KILL),
        ]
    )


def _on(number: int | None, rule: bytes) -> bytes:
    """The rule for one call; it always answers, so that what comes after still sees the call's number."""
    if number is None:
        return b""
    return _step(_EQUAL, number, otherwise=len(rule) // _INSTRUCTION.size) + rule


def _unless_any(argument: int, bits: int, error: int) -> bytes:
    jump = _step(_ANY_BIT, bits, otherwise=1)
    return _low(argument) + jump + _answer(_ERROR | error) + _answer(_ALLOW)


def _if_any(argument: int, bits: int, error: int) -> bytes:
    jump = _step(_ANY_BIT, bits, otherwise=1)
    return _low(argument) + jump + _answer(_ALLOW) + _answer(_ERROR | error)


def _if_one_of(argument: int, values: Iterable[int]) -> bytes:
    tests = [_step(_EQUAL, value, otherwise=1) + _answer(_ALLOW) for value in values]
    return _low(argument) + b"".join(tests) + _answer(_ERROR | UNKNOWN)


def _if_null(argument: int) -> bytes:
    refuse = _answer(_ERROR | UNKNOWN)
    halves = [
        _step(_LOAD, _place(argument) + offset) + _step(_EQUAL, 0, then=1) + refuse for offset in (0, 4)
    ]
    return b"".join([*halves, _answer(_ALLOW)])


def _low(argument: int) -> bytes:
    """The low half, which holds all of an `int`; the kernel looks at no more of it."""
    return _step(_LOAD, _place(argument))


def _place(argument: int) -> int:
    return _ARGUMENTS_AT + 8 * argument


def _answer(verdict: int) -> bytes:
    return _step(_RETURN, verdict)


def _step(code: int, operand: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, then, otherwise, operand)
