"""Power cuts for whatever writes: a process is traced by strace, and its system calls change a model disk.

SQLite's writes are seen like those of the store. What is written through mapped memory is not: SQLite maps
its index of the log (`-shm`), which it makes anew after a cut.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.disk import Disk, Node, Tree, Write, key_of, read_tree

_CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,"
    "sendfile,fsync,fdatasync,lseek,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
_ENDED = re.compile(r"(.*)\) += (-?\d+)(<[^>]*>)?(?:\(deleted\))?(?: .*)?$")
_PR_SET_PTRACER = 0x59616D61
_UNFINISHED = " <unfinished ...>"
_HEX = re.compile(r"\\x([0-9a-f]{2})")


def can_trace() -> bool:
    """Whether strace is installed and may trace a process here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0


def states(process: BaseProcess, root: Path, told: Path, log: Path, most: int) -> Iterator[tuple[str, Tree]]:
    """Traces a process to its end; every state that differs, with what was acknowledged by then.

    Args:
        process: has stopped itself before it writes below `root`, and tells the file `told` what it
            acknowledges.
        root: the part of the disk that is modeled; what lies there is taken for synced.
        told: outside of `root`.
        log: where the trace goes.
        most: states of one moment; where there are more, so many are drawn.
    """
    disk = Disk(read_tree(root))
    follow_to_the_end(process, log, _CALLS)
    assert process.exitcode == 0
    trace, seen = _Trace(disk, root, told), set[int]()
    with log.open() as lines:
        for call, arguments, result, where in _calls(lines):
            if trace.follow(call, arguments, result, where):
                for tree in disk.legal_trees(most):
                    key = hash((trace.acknowledged, key_of(tree)))
                    if key not in seen:
                        seen.add(key)
                        yield trace.acknowledged, tree


def stop_to_be_traced() -> None:
    """Stops this process until a tracer lets it go on; any process of this account may be that."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def follow_to_the_end(process: BaseProcess, log: Path, calls: str, *options: str) -> None:
    """Traces calls of a process that has stopped itself until it ends; `options` are of strace."""
    pid = process.pid or 0
    _wait(lambda: _status(pid, "State").startswith("T"))
    shown = ["-y", "-xx", "-s", str(1 << 26), "-e", "signal=none", "-e", f"trace={calls}", *options]
    with subprocess.Popen(["strace", "-f", "-qq", *shown, "-o", str(log), "-p", str(pid)]) as strace:
        _wait(lambda: _status(pid, "TracerPid") != "0")
        os.kill(pid, signal.SIGCONT)
        process.join()
    assert strace.returncode == 0


def _wait(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < end, "strace did not come"
        os.sched_yield()


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}:")).partition(":")[2].strip()


def _calls(lines: Iterator[str]) -> Iterator[tuple[str, list[str], int, str]]:
    """Name, arguments, result and the path of a new descriptor, of every call that worked."""
    begun: dict[str, str] = {}
    for line in lines:
        found = _LINE.match(line.rstrip("\n"))
        if found is None:
            continue
        process, call, rest = found[1], found[2], begun.pop(found[1], "") + found[3]
        if rest.endswith(_UNFINISHED):
            begun[process] = rest.removesuffix(_UNFINISHED)
            continue
        ended = _ENDED.match(rest)
        if ended is not None and int(ended[2]) >= 0:
            yield call, ended[1].split(", "), int(ended[2]), _text(ended[3] or "")


def _raw(argument: str) -> bytes:
    """The bytes between the quotes of an argument."""
    return bytes.fromhex("".join(_HEX.findall(argument)))


def _text(argument: str) -> str:
    return os.fsdecode(_raw(argument))


class _Trace:
    """Lets calls change the model, and knows what was acknowledged."""

    def __init__(self, disk: Disk, root: Path, told: Path) -> None:
        self.acknowledged = ""
        self._disk, self._root, self._told = disk, root, told
        self._places: dict[str, int] = {}
        """How far each descriptor has written, by what strace shows of it."""
        self._follow: dict[str, Callable[[list[str], int], bool]] = {
            "write": self._write,
            "pwrite64": self._write_at,
            "ftruncate": self._cut_to,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "lseek": self._seek,
            "rename": lambda a, _: self._move(a[0], a[1]),
            "renameat": lambda a, _: self._move(a[0] + a[1], a[2] + a[3]),
            "renameat2": lambda a, _: self._move(a[0] + a[1], a[2] + a[3]),
            "link": lambda a, _: self._link(a[0], a[1]),
            "linkat": lambda a, _: self._link(a[0] + a[1], a[2] + a[3]),
            "unlink": lambda a, _: self._remove(a[0]),
            "unlinkat": lambda a, _: self._remove(a[0] + a[1]),
            "rmdir": lambda a, _: self._remove(a[0]),
            "mkdir": lambda a, _: self._make(a[0]),
            "mkdirat": lambda a, _: self._make(a[0] + a[1]),
        }

    def follow(self, call: str, arguments: list[str], result: int, where: str) -> bool:
        """Does to the model what a call has done; whether that changed anything."""
        if call in ("openat", "open", "creat"):
            return self._open(", ".join(arguments), f"{result}<{where}>", where)
        if call == "fallocate" and "FALLOC_FL_KEEP_SIZE" in arguments[1]:
            return False  # room is taken, and nothing else changes
        follow = self._follow.get(call)
        if follow is not None:
            return follow(arguments, result)
        if any(self._below(self._path(argument)) is not None for argument in arguments):
            raise NotImplementedError(f"{call} is not followed")
        return False

    def _path(self, argument: str) -> str:
        """The path that an argument names, or that its descriptor is open at."""
        directory, _, name = argument.rpartition('"')[0].partition('"')
        if not name:
            return _text(argument.partition("<")[2])
        return os.path.join(_text(directory.partition("<")[2]), os.fsdecode(_raw(name)))  # noqa: PTH118

    def _below(self, path: str) -> Path | None:
        try:
            return Path(os.path.normpath(path)).relative_to(self._root)
        except ValueError:
            return None

    def _node(self, argument: str) -> Node | None:
        path = self._below(self._path(argument))
        return None if path is None else self._disk.find(path)

    def _open(self, arguments: str, descriptor: str, where: str) -> bool:
        self._places[descriptor] = 0
        path = self._below(where)
        if path is None or "O_TMPFILE" in arguments:
            return False
        node = self._disk.find(path)
        if node is None and "O_CREAT" in arguments:
            self._disk.name(path, Node(is_directory=False))
            return True
        if node is not None and "O_TRUNC" in arguments and node.content:
            node.pending.append(Write(0, size=0))
            return True
        return False

    def _write(self, arguments: list[str], result: int) -> bool:
        descriptor = self._shown(arguments[0])
        place = self._places.get(descriptor, 0)
        self._places[descriptor] = place + result
        if self._path(arguments[0]) == str(self._told):
            self.acknowledged += os.fsdecode(_raw(arguments[1]))
            return True
        return self._put(arguments[0], arguments[1], place, result)

    def _write_at(self, arguments: list[str], result: int) -> bool:
        return self._put(arguments[0], arguments[1], int(arguments[3]), result)

    def _put(self, descriptor: str, data: str, place: int, result: int) -> bool:
        node = self._node(descriptor)
        if node is None:
            return False
        node.pending.append(Write(place, _raw(data)[:result]))
        return True

    def _shown(self, argument: str) -> str:
        return f"{argument.partition('<')[0]}<{self._path(argument)}>"

    def _seek(self, arguments: list[str], result: int) -> bool:
        self._places[self._shown(arguments[0])] = result
        return False

    def _cut_to(self, arguments: list[str], _: int) -> bool:
        node = self._node(arguments[0])
        if node is not None:
            node.pending.append(Write(0, size=int(arguments[1])))
        return node is not None

    def _sync(self, arguments: list[str], _: int) -> bool:
        node = self._node(arguments[0])
        if node is not None:
            node.sync()
        return node is not None

    def _move(self, source: str, target: str) -> bool:
        old, new = self._below(self._path(source)), self._below(self._path(target))
        node = None if old is None else self._disk.find(old)
        if new is not None and node is not None:
            self._disk.name(new, node)
        if old is not None and node is not None:
            self._disk.name(old, None)
        return node is not None

    def _link(self, source: str, target: str) -> bool:
        node, new = self._node(source), self._below(self._path(target))
        if node is not None and new is not None:
            self._disk.name(new, node)
        return node is not None and new is not None

    def _make(self, argument: str) -> bool:
        path = self._below(self._path(argument))
        if path is not None:
            self._disk.name(path, Node(is_directory=True))
        return path is not None

    def _remove(self, argument: str) -> bool:
        path = self._below(self._path(argument))
        if path is None or self._disk.find(path) is None:
            return False
        self._disk.name(path, None)
        return True
