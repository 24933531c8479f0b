"""What the commands show, as plain rows: the same values become a table or JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.anatomy import Group
    from esper.checkpoint import CheckpointCatalog
    from esper.report import MapLayer
    from esper.runs.open import Inspected


@dataclass(frozen=True)
class MemberRow:
    """One axis of one tensor that a group runs through."""

    tensor: str
    axis: int
    role: str


@dataclass(frozen=True)
class GroupRow:
    """One group of units: what it is, what goes through it, and the tensor axes that it owns.

    The fractions are the shares of the network's FLOPs and parameters that would go with all of the group;
    work between two groups counts for both. `coupling` names the normalization that runs over the units, if
    removing one changes what the others are divided by.
    """

    name: str
    kind: str
    width: int
    flops_fraction: float
    parameters_fraction: float
    members: tuple[MemberRow, ...]
    coupling: str = ""

    def modules(self, role: str) -> tuple[str, ...]:
        """The modules whose tensors play this role (`producer`, `consumer`, `companion`), each once."""
        names = (row.tensor.rpartition(".")[0] or row.tensor for row in self.members if row.role == role)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class FrozenRow:
    """Coordinates that cannot be removed, and why."""

    name: str
    width: int
    reason: str


@dataclass(frozen=True)
class BlockRow:
    """A residual layer that can be left out whole, and its shares of the network's FLOPs and parameters."""

    name: str
    flops_fraction: float
    parameters_fraction: float


@dataclass(frozen=True)
class AnatomyRows:
    """What a network is made of, for people and programs."""

    units: int
    flops: float
    parameters: int
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenRow, ...]
    layers: tuple[MapLayer, ...] = ()
    """In the order of the computation; none where the graph is not known."""
    blocks: tuple[BlockRow, ...] = ()


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint as its sealed manifest describes it; `problems` says why one cannot be used."""

    name: str
    step: int | None
    epoch: int | None
    created_seconds: float | None
    size_bytes: int | None
    attachments: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class VerifyRow:
    """What reading every byte of one checkpoint, and of what was attached to it, found.

    Attributes:
        problems: what is damaged, so that it is not believed.
        weaknesses: what costs nothing yet: one of two copies of a file's key does not open.
    """

    name: str
    verified_bytes: int
    problems: tuple[str, ...]
    weaknesses: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that people should hear of."""
        return self.problems + self.weaknesses


def anatomy_rows(found: Inspected) -> AnatomyRows:
    """The groups in the order of the network, with their shares, what is frozen, and the layers."""
    anatomy = found.anatomy
    flops, parameters = anatomy.flops(), anatomy.parameters()

    def row(number: int, group: Group) -> GroupRow:
        keep = anatomy.group_of != number
        return GroupRow(
            group.name,
            group.kind.value,
            group.width,
            1 - anatomy.flops(keep) / flops if flops else 0.0,
            1 - anatomy.parameters(keep) / parameters if parameters else 0.0,
            tuple(MemberRow(member.tensor, member.axis, member.role) for member in group.members),
            group.coupling,
        )

    return AnatomyRows(
        anatomy.num_units,
        flops,
        parameters,
        tuple(row(number, group) for number, group in enumerate(anatomy.groups)),
        tuple(FrozenRow(axis.name, axis.width, axis.reason) for axis in anatomy.frozen),
        found.layers,
        tuple(
            BlockRow(block.name, _share(block.flops, flops), _share(block.parameters, parameters))
            for block in found.blocks
        ),
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def checkpoint_rows(catalog: CheckpointCatalog) -> tuple[CheckpointRow, ...]:
    """Every checkpoint, oldest first; those whose manifest does not verify come last, with the reason.

    So does what was set aside: it is no checkpoint of the run any more, and people decide about it.
    """
    listing = catalog.list()
    good = [
        CheckpointRow(
            ref.path.name,
            ref.step,
            ref.epoch,
            ref.created_seconds,
            ref.size_bytes,
            tuple(attached.name for attached in attachments.found),
            tuple(f"{rejection}" for rejection in attachments.rejected),
        )
        for ref, attachments in ((ref, catalog.attachments(ref)) for ref in listing.checkpoints)
    ]
    bad = [
        CheckpointRow(rejection.path.name, None, None, None, None, (), (rejection.reason,))
        for rejection in listing.rejected
    ]
    aside = [
        CheckpointRow(path.name, None, None, None, None, (), ("it was set aside: nothing vouched for it",))
        for path in catalog.aside()
    ]
    return (*good, *bad, *aside)


def to_verify(catalog: CheckpointCatalog) -> list[Path]:
    """Every checkpoint, oldest first."""
    return sorted(catalog.newest_first(), key=lambda path: path.name)


def verify_row(catalog: CheckpointCatalog, path: Path) -> VerifyRow:
    """Reads every byte of one checkpoint, and of what was attached to it."""
    report = catalog.verify(path)
    if not report.is_ok:
        return VerifyRow(path.name, report.verified_bytes, report.problems)
    checkpoint = catalog.at(step_number(path))
    attachments = catalog.attachments(checkpoint)
    weaknesses = [f"{one.name}/{weak}" for one in attachments.found for weak in one.weaknesses]
    return VerifyRow(
        path.name,
        report.verified_bytes,
        tuple(f"{rejection}" for rejection in attachments.rejected),
        (*checkpoint.weaknesses, *weaknesses),
    )


def step_number(path: Path) -> int:
    """The step that a checkpoint directory is named by."""
    return int(path.name.removeprefix("step-"))
