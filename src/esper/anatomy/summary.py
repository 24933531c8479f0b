"""An anatomy as text: what can be removed, what it would save, what is frozen and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.anatomy.structure import Anatomy

_MOST_ROWS = 60


def summary(anatomy: Anatomy) -> str:
    """One line per group and per frozen axis; cost shares are those of removing the whole group alone."""
    flops, parameters = anatomy.flops(), anatomy.parameters()
    lines = [f"{anatomy.num_units} units in {len(anatomy.groups)} groups"]
    lines[0] += f"; {parameters:,} parameters, {flops / 1e6:,.2f} MFLOPs per sample"
    width = max(
        [len(group.name) for group in anatomy.groups] + [len(axis.name) for axis in anatomy.frozen] + [8]
    )
    for number, group in enumerate(anatomy.groups[:_MOST_ROWS]):
        keep = anatomy.group_of != number
        share = 1 - anatomy.flops(keep) / flops if flops else 0.0
        of_parameters = 1 - anatomy.parameters(keep) / max(parameters, 1)
        others = sum(member.role in ("producer", "consumer") for member in group.members) - 1
        lines.append(
            f"  {group.name:{width}}  {group.kind.value:7} {group.width:6}  {share:6.1%} FLOPs  "
            f"{of_parameters:6.1%} parameters  coupled with {others} weights"
            f"{', approximate' if group.coupling else ''}"
        )
    hidden = len(anatomy.groups) - _MOST_ROWS
    if hidden > 0:
        lines.append(f"  ... and {hidden} more groups")
    lines += [
        f"  {axis.name:{width}}  frozen  {axis.width:6}  {axis.reason}"
        for axis in anatomy.frozen[:_MOST_ROWS]
    ]
    return "\n".join(lines)
