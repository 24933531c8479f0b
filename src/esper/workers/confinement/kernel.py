"""What the kernel is told by whoever confines itself: no new rights, a filter of calls, files it may read."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from esper.errors import ConfigError
from esper.workers.confinement.filters import MACHINES, program

_NO_NEW_PRIVILEGES, _DIE_WITH_PARENT = 38, 1
_SET_SECCOMP, _BY_FILTER = 22, 2
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALL_THREADS = 1, 1
_CREATE_RULES, _ADD_RULE, _OBEY_RULES = 444, 445, 446
_GET_VERSION, _BELOW = 1, 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights to files a version of landlock knows; all later ones know as many as the last."""
_TCP, _SCOPES = 3, 3
_SINCE_TCP, _SINCE_SCOPES = 4, 6


def can_filter() -> bool:
    """Whether this kernel filters the system calls of a process that asks for it."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        return False
    no_filter = 0  # an address that is none: whoever knows filters complains about that, and sets nothing
    answer = _libc().prctl(_SET_SECCOMP, _BY_FILTER, no_filter, 0, 0)
    return answer < 0 and ctypes.get_errno() == errno.EFAULT


def read_only(paths: Iterable[Path]) -> bool:
    """Leaves this process, and what it starts, nothing of the disk but reading these files and folders.

    Returns:
        Whether the kernel has landlock; without it nothing has changed.
    """
    libc = _libc()
    version = libc.syscall(_CREATE_RULES, None, ctypes.c_size_t(0), _GET_VERSION)
    if version < 1:
        return False
    rights = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    asked = [rights]
    if version >= _SINCE_TCP:
        asked.append(_TCP)
    if version >= _SINCE_SCOPES:
        asked.append(_SCOPES)
    wish = struct.pack(f"={len(asked)}Q", *asked)
    rules = _done(libc.syscall(_CREATE_RULES, wish, ctypes.c_size_t(len(wish)), 0), "landlock")
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _admit(libc, rules, path)
    _no_new_privileges(libc)
    _done(libc.syscall(_OBEY_RULES, rules, 0), "landlock")
    os.close(rules)
    return True


def _admit(libc: ctypes.CDLL, rules: int, path: Path) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = _READ_FILE | (_READ_FOLDER if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, descriptor)
        _done(libc.syscall(_ADD_RULE, rules, _BELOW, rule, 0), "landlock")
    finally:
        os.close(descriptor)


def only_read_calls() -> None:
    """Filters the system calls of all threads of this process, for good."""
    name = platform.machine()
    code = program(MACHINES[name], os.getpid())
    kept = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("@HP", len(code) // 8, ctypes.addressof(kept))
    libc = _libc()
    _no_new_privileges(libc)
    _done(libc.syscall(_SECCOMP[name], _SET_FILTER, _ALL_THREADS, described), "seccomp")


def limit(memory_bytes: int, seconds: int) -> None:
    """Caps what this process takes from here on: memory beside what it has, seconds of processor time."""
    caps = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0}
    pages = Path("/proc/self/statm")
    if pages.exists():
        has = int(pages.read_text().split()[0]) * resource.getpagesize()
        caps[resource.RLIMIT_AS] = has + memory_bytes
    for what, cap in caps.items():
        _, most = resource.getrlimit(what)
        spare = 1 if what == resource.RLIMIT_CPU else 0  # the signal of the lower limit says what ended it
        hard = cap + spare if most == resource.RLIM_INFINITY else min(cap + spare, most)
        resource.setrlimit(what, (min(cap, hard), hard))


def die_with(parent: int) -> None:
    """Ends this process when its parent ends; at once if that has happened already."""
    if sys.platform.startswith("linux"):
        _libc().prctl(_DIE_WITH_PARENT, 9, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _no_new_privileges(libc: ctypes.CDLL) -> None:
    _done(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")


def _done(result: int, what: str) -> int:
    if result != 0 and what == "seccomp":
        raise ConfigError(f"The kernel refuses {what} ({os.strerror(ctypes.get_errno())}, answer {result}).")
    if result < 0:
        raise ConfigError(f"The kernel refuses {what}: {os.strerror(ctypes.get_errno())}.")
    return result
