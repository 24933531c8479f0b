"""Calls a function on a file in a process that can do nothing but read that file and answer."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, BinaryIO

from esper.workers.confinement.ending import Caps, Confined, Kind, Stopped

_START = (
    "import sys; at = next((i for i, p in enumerate(sys.path) if p.endswith('-packages')), len(sys.path)); "
    "sys.path[at:at] = [p for p in sys.argv[2:] if p not in sys.path[:at]]; "
    "from esper.workers.confinement.child import main; main(sys.argv[1])"
)
_KEPT = ("LD_LIBRARY_PATH", "LANG", "LC_ALL")
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_NO_DEVICE = {"CUDA_VISIBLE_DEVICES": ""}
_PIECE_BYTES = 1 << 20
_MOST_WORDS = 300
_MOST_VERDICT = 1 << 16
_STARTING_SECONDS = 60
"""What starting an interpreter and its imports may take on a slow disk, beside the cap."""
_DEATHS = {signal.SIGXCPU: Kind.TIME, signal.SIGSYS: Kind.OTHER}


def run_confined(
    function: Callable[[BinaryIO], Iterable[Any]],
    file: IO[bytes],
    answer: IO[bytes],
    caps: Caps,
    *,
    is_confined: bool = True,
) -> Confined | Stopped:
    """Calls `function` on the file in a process of its own; the bytes that it yields go into `answer`.

    Nothing of the environment, and no other open file, is handed on. What was answered is of a stranger:
    look at it before you believe it.

    Args:
        function: of a module that can be imported.
        file: opened for reading only.
        answer: where the bytes go, in part too when the process is stopped.
        caps: the most that it may take.
        is_confined: False: with caps, but free to do what this account may do.
    """
    module = sys.modules[function.__module__]
    verdict_out, verdict_in = os.pipe()
    request = {
        "module": function.__module__,
        "function": function.__name__,
        "parent": os.getpid(),
        "memory_bytes": caps.memory_bytes,
        "seconds": caps.seconds,
        "is_confined": is_confined,
        "verdict": verdict_in,
    }
    roots = [_root(module.__name__, module.__file__), _root(__name__, __file__)]
    command = [sys.executable, "-I", "-B", "-W", "ignore", "-c", _START, json.dumps(request), *roots]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with (
        os.fdopen(verdict_out, "rb") as verdict,
        subprocess.Popen(
            command,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, **_ONE_THREAD, **_NO_DEVICE},
            cwd="/",
            pass_fds=(verdict_in,),
        ) as process,
    ):
        os.close(verdict_in)
        try:
            ended = _copied(process, answer, caps)
            if ended is not None:
                return ended
            process.wait(timeout=_STARTING_SECONDS)
            return _ending(verdict.read(_MOST_VERDICT), process.returncode, is_filtered=is_confined)
        except subprocess.TimeoutExpired:
            return Stopped(Kind.TIME, "")
        finally:
            process.kill()


def _root(module: str, file: str | None) -> str:
    """The folder that a module is imported from."""
    if file is None:
        return ""
    path = Path(file).resolve()
    depth = module.count(".") + (1 if path.name == "__init__.py" else 0)
    return str(path.parents[depth])


def _copied(process: subprocess.Popen[bytes], answer: IO[bytes], caps: Caps) -> Stopped | None:
    """Copies what the process answers until it closes its end, within the caps."""
    end, left = time.monotonic() + caps.seconds + _STARTING_SECONDS, caps.answer_bytes
    pipe = process.stdout
    if pipe is None:
        return None
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while ready.select(max(0.0, end - time.monotonic())):
            piece = os.read(pipe.fileno(), _PIECE_BYTES)
            if not piece:
                return None
            left -= len(piece)
            if left < 0:
                return Stopped(Kind.SIZE, "")
            answer.write(piece)
    return Stopped(Kind.TIME, "")


def _ending(verdict: bytes, code: int, *, is_filtered: bool) -> Confined | Stopped:
    try:
        said = json.loads(verdict)
        if code == 0 and said["kind"] is None:
            return Confined(is_filtered=is_filtered, is_narrowed=said["is_narrowed"] is True)
        if code == 0:
            return Stopped(Kind(said["kind"]), _printable(str(said["text"])))
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # it died before it had said anything, or was made to say something else
    if code < 0:
        return Stopped(_DEATHS.get(signal.Signals(-code), Kind.DIED), signal.Signals(-code).name)
    return Stopped(Kind.DIED, f"exit code {code}")


def _printable(text: str) -> str:
    line = " ".join(text.split())
    if len(line) > _MOST_WORDS:  # not in the middle of a word, unless that is all there is
        cut = line[:_MOST_WORDS]
        line = f"{cut.rpartition(' ')[0] or cut} ..."
    return "".join(letter if letter.isprintable() else "?" for letter in line)
