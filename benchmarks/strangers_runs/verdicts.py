"""Records taken together: the table of all runs, and the summary beside its targets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from strangers_runs.record import Record

ROUNDING = 0.005
"""Share of the FLOPs by which torch's counter and the cost model of a tool may differ."""
NEARLY = 0.05
"""Share of the FLOPs by which the peer may stop short; where it stops earlier it has not cut the network."""
PER_POINT = 0.02
"""A loss that is larger by this share is one point worse; an accuracy that is lower by 0.01 is, too."""
CLOSE, DEEPEST = 0.5, 2.0
"""Points that the end, and an instant, may lie behind the twin."""
MEDIAN_RATIO, WORST_RATIO = 1.15, 1.4
LONG_SECONDS, LONG_RATIO = 600.0, 1.0
"""A training that takes its twin so long of the processor is to cost no more than that."""
MOST_REACH, MOST_ARE_CLOSE, MOST_BEAT_THE_PEER = 0.9, 0.8, 0.8

COLUMNS = (
    "run",
    "target",
    "FLOPs gone, each seed",
    "end - twin (spread of the twin)",
    "peer: end - twin",
    "narrow from birth: end - twin",
    "worst instant - twin",
    "twin of another seed, then",
    "CPU / twin",
    "wall / twin",
    "longest wait, s",
    "refused, back, failed",
    "why missed",
)


@dataclass(frozen=True)
class Together:
    """One run over its seeds: those of which the twin and Esper, or the peer, are there.

    Attributes:
        name: of the run.
        twins: by seed.
        ours: by seed.
        peers: by seed.
        narrow: by seed.
    """

    name: str
    twins: Mapping[int, Record]
    ours: Mapping[int, Record]
    peers: Mapping[int, Record]
    narrow: Mapping[int, Record]

    @classmethod
    def of(cls, name: str, records: Sequence[Record]) -> Together:
        arms = {
            arm: {record.seed: record for record in records if (record.name, record.arm) == (name, arm)}
            for arm in ("twin", "esper", "peer", "narrow")
        }
        twins = {seed: record for seed, record in arms["twin"].items() if not record.error}
        return cls(name, twins, arms["esper"], arms["peer"], arms["narrow"])

    @property
    def target(self) -> float:
        """What was asked for; a process that died has not told."""
        return max(record.target for record in (*self.twins.values(), *self.ours.values()))

    @property
    def has_reached(self) -> bool:
        return all(_has_reached(record) for record in self.ours.values())

    @property
    def is_told(self) -> bool:
        """Whether every training that missed says so."""
        return all(record.why for record in self.ours.values() if not _has_reached(record))

    @cached_property
    def spread(self) -> float:
        """Points between the twin's best and worst seed."""
        finals = [record for record in self.twins.values() if record.final is not None]
        return max((_points(a, a.final, b.final) for a in finals for b in finals), default=0.0)

    @cached_property
    def lead(self) -> float:
        """Points by which the end is ahead of the twin's, mean over seeds; NaN if a seed has no end."""
        return _mean(list(self.leads(self.ours).values()))

    @cached_property
    def peer_lead(self) -> float:
        return _mean(list(self.leads(self.peers).values()))

    def leads(self, arm: Mapping[int, Record]) -> dict[int, float]:
        """Points by seed."""
        return {
            seed: _points(record, record.final, self.twins[seed].final)
            for seed, record in arm.items()
            if seed in self.twins
        }

    @property
    def is_close(self) -> bool:
        return self.lead >= -max(CLOSE, self.spread)

    @property
    def beats_the_peer(self) -> bool:
        """At the target's FLOPs; a peer that does not get there is beaten by any that does."""
        if not self.has_reached or math.isnan(self.lead):
            return False
        is_cut = all(record.share >= record.target - NEARLY for record in self.peers.values())
        return math.isnan(self.peer_lead) or not is_cut or self.lead > self.peer_lead

    @cached_property
    def worst_instant(self) -> float:
        """Points ahead of the twin's curve right after something went, the worst of all seeds."""
        return min(
            (_points(record, quality, twin) for record, _, quality, twin in self._instants()),
            default=math.nan,
        )

    @cached_property
    def worst_of_twins(self) -> float:
        """The same of the next seed's twin, in the same epochs: what is chance."""
        after = dict(zip(self.twins, [*list(self.twins)[1:], *list(self.twins)[:1]], strict=True))
        others = {seed: self.twins[after[seed]].curve for seed in self.twins}
        return min(
            (
                _points(record, others[record.seed][epoch - 1], twin)
                for record, epoch, _, twin in self._instants()
                if len(self.twins) > 1
            ),
            default=math.nan,
        )

    @property
    def is_steady(self) -> bool:
        """Whether no instant is deeper than allowed, or than another seed is."""
        chance = 0.0 if math.isnan(self.worst_of_twins) else self.worst_of_twins
        return self.worst_instant >= min(-DEEPEST, chance)

    def _instants(self) -> Iterator[tuple[Record, int, float, float]]:
        """Epoch and quality of each, and what the twin had then."""
        for seed, record in self.ours.items():
            for epoch, quality in record.instants if seed in self.twins else ():
                yield record, epoch, quality, self.twins[seed].curve[epoch - 1]

    def ratio(self, of: Callable[[Record], float], arm: str = "ours") -> float:
        """What training cost against the twin, mean over seeds."""
        records: Mapping[int, Record] = getattr(self, arm)
        pairs = [(record, self.twins[seed]) for seed, record in records.items() if seed in self.twins]
        return _mean([of(mine) / of(twin) for mine, twin in pairs if not mine.error and not twin.error])


def _has_reached(record: Record) -> bool:
    return not record.error and record.share >= record.target - ROUNDING


def _points(like: Record, mine: float | None, other: float | None) -> float:
    """How many points better `mine` is; NaN if either is not there."""
    if mine is None or other is None:
        return math.nan
    if like.is_loss:
        return (other - mine) / other / PER_POINT
    return 100 * (mine - other)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def table(runs: Sequence[Together]) -> list[str]:
    """Markdown: one line for each run."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    return [*lines, *(f"| {' | '.join(_cells(run))} |" for run in runs)]


def _cells(run: Together) -> list[str]:
    ours = list(run.ours.values())
    longest = max((_longest(record) for record in ours), default=(0.0, ""))
    return [
        run.name,
        f"-{run.target:.0%}",
        " ".join("died" if record.error else f"{record.share:.3f}" for record in ours),
        f"{_signed(run.lead)} ({run.spread:.1f})",
        _other_cell(run, run.peers),
        _other_cell(run, run.narrow),
        _signed(run.worst_instant) if any(record.instants for record in ours) else "nothing went",
        _signed(run.worst_of_twins),
        f"{run.ratio(lambda record: record.cpu_seconds):.2f}",
        f"{run.ratio(lambda record: record.wall_seconds):.2f}",
        f"{longest[0]:.1f} {longest[1]}",
        ", ".join(
            str(sum(_count(record, kind) for record in ours)) for kind in ("Refused", "Back", "Skipped")
        ),
        _why(ours),
    ]


def _longest(record: Record) -> tuple[float, str]:
    return max(((seconds, call) for call, seconds in record.stalls.items()), default=(0.0, ""))


def _count(record: Record, kind: str) -> int:
    """Events of which the name begins or ends so: `Refused` counts `RefusedLive`, `Back` `RolledBack`."""
    return sum(name.startswith(kind) or name.endswith(kind) for _, name, _ in record.events)


def _why(ours: Sequence[Record]) -> str:
    missed = [record for record in ours if not _has_reached(record)]
    silent = "NOT TOLD"
    sentences = dict.fromkeys(record.error or record.why or silent for record in missed)
    return " / ".join(sentence.replace("|", "/").replace("\n", " ") for sentence in sentences)


def _other_cell(run: Together, records: Mapping[int, Record]) -> str:
    if not records:
        return ""
    errors = [record.error for record in records.values() if record.error]
    if errors:
        return f"cannot: {errors[0][:90]}".replace("|", "/").replace("\n", " ")
    shares = " ".join(f"{record.share:.2f}" for record in records.values())
    return f"{_signed(_mean(list(run.leads(records).values())))} at {shares}"


def _signed(points: float) -> str:
    return "none" if math.isnan(points) else f"{points:+.2f}"


def summary(runs: Sequence[Together]) -> list[str]:
    """Every figure of all runs beside its target."""
    if not runs:
        return ["Nothing has been measured."]
    missed = [record for run in runs for record in run.ours.values() if not _has_reached(record)]
    ratios = [run.ratio(lambda record: record.cpu_seconds) for run in runs]
    instants = [run.worst_instant for run in runs if not math.isnan(run.worst_instant)]
    within = sum(instant >= -DEEPEST for instant in instants)
    steady = sum(run.is_steady for run in runs if not math.isnan(run.worst_instant))
    trainings = [record for run in runs for record in run.ours.values()]
    with_peer = [run for run in runs if run.peers]
    told = sum(bool(record.why) for record in missed)
    return [
        "| figure | target | measured | |",
        "|---|---|---|---|",
        _share("runs that reach their target with every seed", runs, MOST_REACH, lambda run: run.has_reached),
        f"| trainings that reach it | | {len(trainings) - len(missed)} of {len(trainings)} | |",
        _line("of the others say why", "all", f"{told} of {len(missed)}", told == len(missed)),
        _share(
            f"end within {CLOSE} points of the twin, or its spread",
            runs,
            MOST_ARE_CLOSE,
            lambda run: run.is_close,
        ),
        _share(
            "better than the peer, at the target",
            with_peer,
            MOST_BEAT_THE_PEER,
            lambda run: run.beats_the_peer,
        ),
        _limit("worst instant against the twin, points", instants, -DEEPEST, is_floor=True),
        f"| runs within {DEEPEST:g} points at every instant | | {within} of {len(instants)} | |",
        f"| or no deeper than another seed's twin then | | {steady} of {len(instants)} | |",
        _limit("processor time against the twin, median", [_median(ratios)], MEDIAN_RATIO),
        _limit("processor time against the twin, worst", ratios, WORST_RATIO),
        _limit(f"the same in trainings of {LONG_SECONDS:g} s and longer", _long_ratios(runs), LONG_RATIO),
    ]


def _long_ratios(runs: Sequence[Together]) -> list[float]:
    long = [run for run in runs if _mean([twin.cpu_seconds for twin in run.twins.values()]) >= LONG_SECONDS]
    return [run.ratio(lambda record: record.cpu_seconds) for run in long]


def _share(what: str, runs: Sequence[Together], least: float, is_so: Callable[[Together], bool]) -> str:
    count = sum(map(is_so, runs))
    return _line(
        what, f">= {least:.0%}", f"{count} of {len(runs)}", bool(runs) and count >= least * len(runs)
    )


def _limit(what: str, values: Sequence[float], limit: float, *, is_floor: bool = False) -> str:
    """A value that was not measured misses every limit."""
    sign, known = (">=" if is_floor else "<="), [value for value in values if not math.isnan(value)]
    if not known:
        return _line(what, f"{sign} {limit:g}", "nothing measured", is_reached=False)
    worst = min(known) if is_floor else max(known)
    is_reached = len(known) == len(values) and (worst >= limit if is_floor else worst <= limit)
    return _line(what, f"{sign} {limit:g}", f"{worst:.2f}", is_reached)


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _line(what: str, target: str, value: str, is_reached: bool) -> str:
    return f"| {what} | {target} | {value} | {'reached' if is_reached else '**MISSED**'} |"
