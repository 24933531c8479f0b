"""What a run has told so far, read from `telemetry.jsonl` while it may still be written."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from esper.errors import ContractError
from esper.files import open_plain
from esper.narset import Summary, merged, summaries_of
from esper.nissa import MARKS, NOTED, OF_SEEDS
from esper.report import EpochRow, Mark, Measures, Overhead, SeedRow

_ROW = ("step", "flops", "parameters", "masked_units", "seconds", "measured_step")
_GOES_BACK = frozenset({"resumed", "went_back", "rolled_back", "withdrawn"})
_MOST_LATEST = 30
_PIECE_BYTES = 1 << 23


@dataclass(frozen=True)
class Masks:
    """What masks have made of the network since the last epoch ended.

    Attributes:
        flops: of one forward pass, without what is masked.
        parameters: likewise.
        units: that are masked now.
    """

    flops: float
    parameters: int
    units: int


@dataclass
class Told:
    """The state that all lines until now lead to; one more line changes it.

    Attributes:
        epochs: of the way that training is on; those that it went back over are gone.
        marks: moments that Esper acted in, or decided not to.
        seeds: every step of every seed.
        programs: that `torch.compile` made in epochs with a seed; None: there was none, or nobody counted.
        notes: what people were told once.
        cycles: records of what was decided (`CycleRecord`), oldest first.
        analyses: how analyses ended, by status; `late` counts those whose time ran out.
        durations: seconds that analyses took.
        analyzing: the epoch of the checkpoint that is being analyzed; None if none is.
        trial: the epoch of a mask that has neither been cut nor taken back; None if there is none.
        masks: what they have made of the network since the last epoch; None: the epoch tells.
        withdrawn_to: the step that somebody went back to by hand, if nothing has happened since.
        overhead: what Esper costs, as the last epoch tells.
        stall_seconds: that the last checkpoint held training up, as far as anybody told.
        worker_peak_bytes: the most memory that an analysis worker has held, as the last epoch tells.
        counted: what was counted step by step, over all processes of the run, by name.
        latest: the last sentences that people were told, newest first, with when and how grave.
        began: name of the network, if the beginning was told.
        is_finished: whether the report was written and nothing has happened since.
        at_seconds: when the last line was written.
        unreadable: lines that are none.
    """

    epochs: list[EpochRow] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    seeds: list[SeedRow] = field(default_factory=list)
    programs: int | None = None
    notes: list[str] = field(default_factory=list)
    cycles: list[Mapping[str, Any]] = field(default_factory=list)
    analyses: dict[str, int] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    analyzing: int | None = None
    trial: int | None = None
    masks: Masks | None = None
    withdrawn_to: int | None = None
    overhead: Overhead | None = None
    stall_seconds: float | None = None
    worker_peak_bytes: float | None = None
    counted: dict[str, Summary] = field(default_factory=dict)
    latest: list[tuple[float, str, str]] = field(default_factory=list)
    began: str = ""
    is_finished: bool = False
    at_seconds: float | None = None
    unreadable: int = 0

    @property
    def measures(self) -> Measures:
        """What promises are held against."""
        cost = self.overhead
        return Measures(
            self.analyses,
            self.durations,
            self.stall_seconds,
            cost.esper_seconds if cost else None,
            cost.training_seconds if cost else None,
            self.worker_peak_bytes,
        )

    @property
    def masked_units(self) -> int:
        """Units that are masked and not cut yet."""
        if self.masks is not None:
            return self.masks.units
        return self.epochs[-1].masked_units if self.epochs else 0

    def take(self, event: Any) -> None:
        """One more line, read; what is no event of ours is counted and left out."""
        try:
            kind, epoch, facts = str(event["kind"]), event["epoch"], event["facts"]
            text, severity, at_seconds = str(event["text"]), event["severity"], float(event["at_seconds"])
            self._hear(kind, epoch, facts)
        except (ValueError, KeyError, TypeError, AttributeError, ContractError):
            self.unreadable += 1
            return
        self.at_seconds = at_seconds
        if kind in MARKS and epoch is not None:
            self.marks.append(Mark(epoch, MARKS[kind], text))
        elif kind == "withdrawn":
            self.marks.append(Mark(facts["to_epoch"], "rollback", text))
        elif kind in NOTED and text not in self.notes:
            self.notes.append(text)
        if severity != "detail":
            self.latest = [(at_seconds, severity, text), *self.latest][:_MOST_LATEST]

    def _hear(self, kind: str, epoch: Any, facts: dict[str, Any]) -> None:
        self.is_finished, self.withdrawn_to = kind == "finished", None
        act = self._acts.get(kind)
        if act is not None:
            act(self, epoch, facts)
        if kind in _GOES_BACK:
            self._go_back(kind, facts)
        if kind in OF_SEEDS:
            way = (facts["slot"], facts["blueprint"], facts["before"], facts["after"], facts["evidence"])
            self.seeds.append(SeedRow(epoch, *way))

    def _go_back(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Training is at an earlier step again, or was while nobody told."""
        step = facts["step"] if kind == "resumed" else facts["to_step"]
        self.trial = None
        self.analyzing = None
        if step is not None:
            self.masks = None
            self.epochs = [row for row in self.epochs if row.step <= step]

    def _end_epoch(self, epoch: int, facts: Mapping[str, Any]) -> None:
        metrics = {name: float(value) for name, value in facts["metrics"].items()}
        row = EpochRow(epoch=epoch, metrics=metrics, **{name: facts[name] for name in _ROW})
        while self.epochs and self.epochs[-1].epoch >= epoch:
            self.epochs.pop()
        self.epochs.append(row)
        self.masks = None
        self.stall_seconds = facts.get("stall_seconds")
        self.worker_peak_bytes = facts.get("worker_peak_bytes")
        self.overhead = Overhead(
            facts["tracking_fraction"],
            facts["stall_ms_per_gb"],
            facts["running_seconds"],
            facts["esper_seconds"],
        )

    def _count(self, _: Any, facts: Mapping[str, Any]) -> None:
        summaries = summaries_of(base64.b64decode(facts["message"], validate=True))[1]
        for name, summary in summaries.items():
            self.counted[name] = merged((self.counted[name], summary)) if name in self.counted else summary

    def _begin(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.began = str(facts["model"])

    def _decide(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.cycles.append(dict(facts["record"]))

    def _begin_analysis(self, epoch: int, _: Any) -> None:
        self.analyzing = epoch

    def _end_analysis(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.analyzing = None
        status = "late" if facts["is_late"] else str(facts["status"])
        self.analyses[status] = self.analyses.get(status, 0) + 1
        if facts["seconds"] is not None:
            self.durations.append(float(facts["seconds"]))

    def _mask(self, epoch: int, facts: Mapping[str, Any]) -> None:
        self.trial = epoch
        if facts.get("flops") is not None:  # as runs tell today
            units = self.masked_units + int(facts["units"])
            self.masks = Masks(float(facts["flops"]), int(facts["parameters"]), units)

    def _cut(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.trial = None
        if self.epochs:
            last = self.masks or self.epochs[-1]
            self.masks = Masks(last.flops, last.parameters, max(0, self.masked_units - int(facts["units"])))

    def _withdraw(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.withdrawn_to = int(facts["to_step"])

    def _count_programs(self, _: Any, facts: Mapping[str, Any]) -> None:
        self.programs = (self.programs or 0) + int(facts["count"])

    _acts: ClassVar[Mapping[str, Callable[[Told, Any, dict[str, Any]], None]]] = {
        "began": _begin,
        "epoch_ended": _end_epoch,
        "decided": _decide,
        "analysis_began": _begin_analysis,
        "analysis_ended": _end_analysis,
        "telemetry_summary": _count,
        "programs_counted": _count_programs,
        "programs_made": _count_programs,
        "masked": _mask,
        "cut": _cut,
        "withdrawn": _withdraw,
    }


class TelemetryReader:
    """Reads what was appended since the last look; a file that was replaced is read anew.

    Args:
        path: of `telemetry.jsonl`, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told = Told()
        self._offset = 0
        self._inode = -1

    def look(self) -> bool:
        """Reads what is new; says whether there was anything.

        Raises:
            OSError: the file cannot be read.
        """
        try:
            with open_plain(self.path) as file:
                return self._read(file)
        except FileNotFoundError:
            is_new = self._inode >= 0
            self.told, self._offset, self._inode = Told(), 0, -1
            return is_new

    def _read(self, file: BinaryIO) -> bool:
        status = os.fstat(file.fileno())
        if status.st_ino != self._inode or status.st_size < self._offset:
            self.told, self._offset, self._inode = Told(), 0, status.st_ino
        begun = self._offset
        file.seek(begun)
        while data := file.read(_PIECE_BYTES):
            whole = data.rfind(b"\n") + 1  # what is behind it is being written
            if whole == 0 and len(data) == _PIECE_BYTES:
                whole = len(data)  # no line is that long: this is some other file
            for event in _events(data[:whole]):
                self.told.take(event)
            self._offset += whole
            if whole == 0:
                break
            file.seek(self._offset)
        return self._offset > begun


def _events(data: bytes) -> list[Any]:
    """The JSON of every line that is not empty; None for what is none."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    try:
        events = json.loads(b"[" + b",".join(lines) + b"]")  # several times as fast as one by one
    except ValueError:
        events = []
    return events if len(events) == len(lines) else [_event(line) for line in lines]


def _event(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
