"""What a cut at once did to a network, and the network as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from esper.anatomy import Anatomy
from esper.anatomy.cut import Cut, Form
from esper.anatomy.graph import bare
from esper.anatomy.proof import Equivalence, Inputs
from esper.anatomy.twin import for_everybody
from esper.arrays import BoolArray
from esper.compaction.choice import Quality
from esper.compaction.configuration import Description
from esper.errors import ConfigError
from esper.leyline import encode
from esper.report import WidthRow
from esper.runs.network import NetworkFiles, state_of

_MOST_ROWS = 60


@dataclass(frozen=True, eq=False, repr=False)
class Compacted:
    """What a cut did.

    Attributes:
        model: the cut network: the very object that was given, or, cut as a program, a module without code.
        keep: the units that stayed, bool [units of `anatomy`].
        anatomy: the network before.
        proof: how equal the cut network is to the masked one.
        flops_before: of one forward pass for one sample.
        flops_after: the same of the cut network.
        parameters_before: parameters, tied ones counted once.
        parameters_after: the same of the cut network.
        widths: units of every group before and after.
        refused: groups that stayed because the network's own code refuses to be cut there, and why.
        notes: what people should know, for example that quality was not measured.
        quality: loss and accuracy on held-out samples before and after; None without a probe.
        program: the cut network as a program; None if it was cut in place.
        form: what a fresh network must change to take the weights; None if it was cut as a program.
        blocks: residual layers that were removed first; `anatomy` and `keep` are of what they left.
    """

    model: nn.Module
    keep: BoolArray
    anatomy: Anatomy
    proof: Equivalence
    flops_before: float
    flops_after: float
    parameters_before: int
    parameters_after: int
    widths: tuple[WidthRow, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    quality: Quality | None
    program: ExportedProgram | None
    form: Form | None
    description: Description | None
    inputs: Inputs
    blocks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """What went and how sure that is, and one line for every group that lost units."""
        error = self.proof.float32_error if self.proof.float64_error is None else self.proof.float64_error
        head = (
            f"{type(self.model).__name__}: {1 - self.flops_after / self.flops_before:.1%} of the FLOPs gone "
            f"({self.flops_before / 1e6:,.2f} to {self.flops_after / 1e6:,.2f} M per sample), "
            f"{1 - self.parameters_after / self.parameters_before:.1%} of the parameters "
            f"({self.parameters_before:,} to {self.parameters_after:,}); "
            f"equal to the masked network within {error:.1e}"
        )
        lines = [head, *([f"  whole blocks: {', '.join(self.blocks)}"] if self.blocks else [])]
        less = [row for row in self.widths if row.after < row.before]
        width = max((len(row.group) for row in less), default=0)
        lines += [
            f"  {row.group:{width}}  {row.before:6} to {row.after:6} {row.kind}s" for row in less[:_MOST_ROWS]
        ]
        if len(less) > _MOST_ROWS:
            lines.append(f"  ... and {len(less) - _MOST_ROWS} more groups")
        lines += [f"  {group} stays: {why}" for group, why in self.refused.items()]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def save(self, directory: str | Path, *, onnx: bool = False) -> Path:
        """Writes `network.pt2` and `form.json`, and `model.safetensors` of a network that was cut in place.

        `esper.load(directory)` needs no class; `esper.load(directory, model=fresh)` fills a fresh network.
        All of it is durable on return, and its digests (`BLAKE3SUMS`) are checked when it is loaded.

        Args:
            directory: a new or empty directory.
            onnx: also write `network.onnx` and check it by running it.

        Raises:
            CheckpointError: the directory cannot be written; nothing was.
            UntraceableError: the cut network cannot be exported.
            ConfigError: ONNX is asked for and its packages are missing.
        """
        path = Path(directory)
        network = bare(self.model)
        program = self.program or for_everybody(network, self.inputs.args, self.inputs.kwargs)
        weights = state_of(network.state_dict()) if self.form is not None else None
        NetworkFiles(program, self.inputs, self.facts(), weights, self.form).write(path, onnx=onnx)
        return path

    def save_pretrained(self, directory: str | Path) -> Path:
        """Saves with the model's own `save_pretrained`, so that its `from_pretrained` builds the cut network.

        Raises:
            ConfigError: the model's configuration cannot describe the cut; the message says what to do.
        """
        if self.description is None or not self.description.is_complete:
            why = self.description.why if self.description else "it was not asked whether it can"
            raise ConfigError(
                f"The configuration of {type(self.model).__name__} does not describe this cut: {why}. Cut "
                "with homogeneous=True, which leaves the same width in all layers that are alike, or use "
                "save() and esper.load(path, model=fresh), which take any cut."
            )
        self.description.save(bare(self.model), Path(directory))
        return Path(directory)

    def facts(self) -> dict[str, Any]:
        """The numbers, as JSON holds them."""
        return {
            "model": type(self.model).__qualname__,
            "flops": [self.flops_before, self.flops_after],
            "parameters": [self.parameters_before, self.parameters_after],
            "blocks": list(self.blocks),
            "widths": {row.group: [row.before, row.after] for row in self.widths},
            "proof": {
                "float32_error": self.proof.float32_error,
                "float64_error": self.proof.float64_error,
                "gradient_error": self.proof.gradient_error,
                "samples": self.proof.samples,
                "approximation": self.proof.approximation,
            },
            "quality": None if self.quality is None else encode(self.quality),
            "refused": dict(self.refused),
            "notes": list(self.notes),
        }


def outcome(
    model: nn.Module,
    made: Cut,
    inputs: Inputs,
    *,
    notes: tuple[str, ...],
    refused: Mapping[str, str] | None = None,
    quality: Quality | None = None,
    form: Form | None = None,
    description: Description | None = None,
) -> Compacted:
    """The result of a cut, with what it saved."""
    anatomy, keep = made.anatomy, made.keep
    widths = tuple(
        WidthRow(group.name, group.kind.value, group.width, int(keep[anatomy.unit_slice(number)].sum()))
        for number, group in enumerate(anatomy.groups)
    )
    return Compacted(
        model=model,
        keep=keep,
        anatomy=anatomy,
        proof=made.equivalence,
        flops_before=anatomy.flops(),
        flops_after=anatomy.flops(keep),
        parameters_before=anatomy.parameters(),
        parameters_after=anatomy.parameters(keep),
        widths=widths,
        refused=refused or {},
        notes=notes,
        quality=quality,
        program=made.exported,
        form=form,
        description=description,
        inputs=inputs,
        blocks=made.blocks,
    )
