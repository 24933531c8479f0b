"""`esper doctor`: what is here, what is missing and how to get it, and what this machine can do."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.markers import Marker
from packaging.requirements import Requirement
from rich.console import RenderableType
from rich.text import Text

from esper import __version__
from esper.cli.render import BAD, GOOD, table
from esper.errors import CheckpointMissing, EsperError
from esper.report import figures

DISTRIBUTION = "esper-torch"
_KEY_RING = "ESPER_KEY_RING"
_WRITTEN_BYTES = 16 << 20
_LEAST_FREE_BYTES = 1 << 30
_PATIENCE_SECONDS = 60.0

State = Literal["works", "missing", "fails"]
"""`missing` is something that not everybody needs; `fails` keeps Esper from working."""


@dataclass(frozen=True)
class Finding:
    """What was found out about one thing.

    Attributes:
        what: the thing.
        state: whether it can be used.
        text: what was found.
        advice: what to do where it cannot be used; empty elsewhere.
    """

    what: str
    state: State
    text: str
    advice: str = ""


def findings(folder: Path) -> Iterator[Finding]:
    """Looks at one thing after the other; some are tried, so all of it takes about ten seconds.

    Args:
        folder: where run directories will be.
    """
    yield _software()
    yield _processor()
    yield _accelerator()
    yield _tried("tracing", _exporter)
    yield _tried("workers", _workers)
    yield _compiler()
    yield _tried("disk", lambda: _disk(folder))
    yield _tried("key ring", _keys)
    yield from extras()


def _tried(what: str, look: Callable[[], str]) -> Finding:
    """What something said, or how it failed: that is what is asked about here."""
    try:
        return Finding(what, "works", look())
    except (EsperError, OSError, RuntimeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Finding(what, "fails", line)


def _software() -> Finding:
    import torch

    text = f"Esper {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    return Finding("software", "works", f"{text}, {platform.system()}")


def _processor() -> Finding:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    kernels = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} threads of torch"
    text = f"{cores} cores ({threads}), {figures.size(memory)}, kernels for {kernels}"
    return Finding("processor", "works", text)


def _accelerator() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("GPU", "missing", "none that this torch can use; everything runs on the processor")
    names = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    text = ", ".join(f"{device.name} ({figures.size(device.total_memory)})" for device in names)
    return Finding("GPU", "works", text)


def _exporter() -> str:
    import torch

    from esper.anatomy.graph import trace
    from esper.anatomy.units import anatomy_of

    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    begun = time.perf_counter()
    units = anatomy_of(trace(network, (torch.randn(2, 4),)), network).num_units
    seconds = time.perf_counter() - begun
    return f"a small network of {units} units was traced in {seconds:.1f} s"


def _workers() -> str:
    from esper.workers import LocalPool, WorkerTask

    begun = time.perf_counter()
    pool = LocalPool(1, ())
    try:
        handle = pool.submit(WorkerTask("os:getpid"))
        answer = handle.outcome().message if handle.wait(_PATIENCE_SECONDS) else "no answer in time."
    finally:
        pool.close()
    if answer:
        raise RuntimeError(f"{answer} Set analysis.workers to 0: analyses run in the training process then.")
    return f"a process beside this one answered after {time.perf_counter() - begun:.1f} s"


def _compiler() -> Finding:
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))), None)
    if found:
        return Finding("torch.compile", "works", f"has a compiler: {found}")
    advice = "Only torch.compile on the processor needs it: install g++."
    return Finding("torch.compile", "missing", "no C++ compiler", advice)


def _disk(folder: Path) -> str:
    place = folder.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    try:
        speed = _durable_speed(place)
    except OSError as error:
        advice = "Put run directories elsewhere, and name that place: esper doctor PLACE."
        raise OSError(f"{place} cannot be written: {error.strerror}. {advice}") from error
    text = f"{place}: {figures.size(free)} free, durable writes at {speed / 1e6:.0f} MB/s"
    if free < _LEAST_FREE_BYTES:
        raise OSError(f"{text}. Make room, or put run directories elsewhere.")
    return text


def _durable_speed(place: Path) -> float:
    """Bytes a second that are safe from a power cut."""
    with tempfile.TemporaryFile(dir=place) as file:
        begun = time.perf_counter()
        file.write(os.urandom(_WRITTEN_BYTES))
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN_BYTES / (time.perf_counter() - begun)


def _keys() -> str:
    from esper.checkpoint import open_key_ring

    named = os.environ.get(_KEY_RING)
    if not named:
        return f"every run makes its own; {_KEY_RING} would name a common one"
    try:
        return f"{named} can be read; it holds {len(open_key_ring(Path()).keys)}"
    except CheckpointMissing as error:
        raise OSError(f"{_KEY_RING} names {named}, where there is no file. Mend it or unset it.") from error


def extras() -> Iterator[Finding]:
    """Which optional parts are here whole; what is named for people who build Esper is left out."""
    requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    for extra in metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or ():
        if extra in ("dev", "bench"):
            continue
        own = [one for one in requirements if one.marker and _is_of(one.marker, extra)]
        absent = [one.name for one in own if not _is_here(one)]
        if absent:
            advice = f'pip install "{DISTRIBUTION}[{extra}]"'
            yield Finding(f"extra {extra}", "missing", f"without {', '.join(absent)}", advice)
        else:
            here = ", ".join(f"{one.name} {metadata.version(one.name)}" for one in own)
            yield Finding(f"extra {extra}", "works", here)


def _is_of(marker: Marker, extra: str) -> bool:
    return marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _is_here(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def findings_table(rows: list[Finding]) -> RenderableType:
    """One row per finding, with what to do below those that need it."""
    cells = table("", "", "found")
    styles = {"works": GOOD, "missing": "", "fails": BAD}
    for row in rows:
        text = row.text if not row.advice else f"{row.text}. {row.advice}"
        cells.add_row(row.what, Text(row.state, style=styles[row.state]), text)
    return cells
