"""The numbers of the calls are those that libseccomp knows, on both processors."""

from __future__ import annotations

import ctypes

import pytest

from esper.workers.confinement.calls import CONNECTING, JUDGED, READING, STARTING, WRITING
from esper.workers.confinement.filters import MACHINES

TABLES = (READING, JUDGED, WRITING, CONNECTING, STARTING)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_numbers_are_right(machine: object) -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed")
    audit_name, column = MACHINES["x86_64"].audit_name, 0
    if machine is MACHINES["aarch64"]:
        audit_name, column = MACHINES["aarch64"].audit_name, 1
    for table in TABLES:
        for name, numbers in table.items():
            known = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(audit_name), name.encode())
            assert numbers[column] == (known if known >= 0 else None), name


def test_no_call_has_two_answers() -> None:
    for column in (0, 1):
        numbers = [pair[column] for table in TABLES for pair in table.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))
