"""Forking, killing and burying processes so that none is left behind, in whatever way one of them ends.

On Linux workers, their supervisor and the process above it adopt what their descendants leave behind, so that
even a process that has detached itself into a session of its own is found and killed. Elsewhere, and where
there is no /proc, the process groups of workers are killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from esper.workers.alarm import Alarm
from esper.workers.channel import wait_for

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHILDREN = Path("/proc/thread-self/children")


def fork(work: Callable[[], None]) -> int:
    """Starts a copy of this process that does `work` and ends; returns its process id.

    The copy never runs on into its parent's code, whatever happens in it.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  (whatever it is, its way up would lead into the parent's code)
        traceback.print_exc()
    finally:
        os._exit(code)  # there is nothing to tidy up, and taking torch apart would take long


def end_with(parent: int, number: signal.Signals) -> None:
    """This process is sent the signal when its parent ends, or now if that has happened already.

    Linux sends it when the thread that forked ends: the parent must have a single one.
    """
    _control(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """What descends from this process becomes its child when its own parent ends."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def kill(pid: int) -> None:
    """Kills a child that was not buried yet, and the group that it leads, if any."""
    kill_group(pid)
    _send(os.kill, pid)


def kill_group(leader: int) -> None:
    """Kills a process group, whose leader may be dead."""
    _send(os.killpg, leader)


def ended_children() -> dict[int, int]:
    """Buries the children that have ended; their wait statuses, by process id."""
    statuses = {}
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            statuses[ended[0]] = ended[1]
    return statuses


def has_children() -> bool:
    """Whether any child of this process lives; those that have ended are buried."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def kill_strays(known: Collection[int]) -> None:
    """Kills the children of this process that are not `known`: what others left behind when they ended.

    Every such child came with the end of another one. So it is enough to look after each end, including the
    ends that this brings about, and nothing that was started in the meantime is missed.
    """
    for pid in _children():
        if pid not in known:
            kill(pid)


def wait_for_children(alarm: Alarm, seconds: float, then: Callable[[], None] = lambda: None) -> None:
    """Buries all children as they end, and does `then` whenever one has ended. Gives up after `seconds`."""
    end = time.monotonic() + seconds
    while has_children() and (left := end - time.monotonic()) > 0:
        then()
        wait_for([alarm], left)
        alarm.flush()


def kill_children(alarm: Alarm, seconds: float) -> None:
    """Kills all children, what they leave behind too, and buries them. Gives up after `seconds`."""
    wait_for_children(alarm, seconds, then=lambda: kill_strays(known=()))


def epitaph(status: int) -> str:
    """What a process died of, from its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    name = {number.value: number.name for number in signal.Signals}.get(-code, f"signal {-code}")
    hint = " (which is how the system frees memory when it runs out)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def _send(send: Callable[[int, int], None], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it is gone already, or another user's
        send(number, signal.SIGKILL)


def _children() -> list[int]:
    """Living and dead children of this process, as far as /proc shows them."""
    try:
        listed = [int(word) for word in _CHILDREN.read_text().split()]
    except OSError:
        return []
    return [pid for pid in listed if _is_child(pid)]


def _is_child(pid: int) -> bool:
    """A /proc that belongs to other namespaces counts processes differently: its numbers may be anybody's."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return False
    return True


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
