"""`esper compact`: a smaller network as files, from a run, a checkpoint, or a function that builds one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli import output
from esper.cli.batches import batches_in
from esper.errors import ConfigError
from esper.runs import built, checkpoint_at

if TYPE_CHECKING:
    from esper.emrakul import Settings


@dataclass(frozen=True)
class Order:
    """What the user asked for, one field for each option of the command."""

    flops: float | None = None
    parameters: float | None = None
    blocks: tuple[str, ...] = ()
    data: Path | None = None
    as_program: bool = False
    allow_approximate: bool = False
    fold: bool = False
    onnx: bool = False

    def carry_out(self, target: str, out: Path, *, hidden: bool) -> dict[str, Any]:
        """Cuts what a target names and writes it into a new directory; returns the facts.

        A checkpoint loses the units that are masked in it, and more up to the share that is asked for; a
        function's model loses that share, chosen by the loss on `data` if that is given. The finished network
        of a run is written as it is. Unless `hidden`, a bar shows how far a choice is.

        Raises:
            ConfigError: it is not said what shall go, or the target names nothing.
            EsperError: it cannot be cut or written; nothing was.
        """
        if not Path(target).is_dir():
            return self._of_function(target, out, hidden)
        self._refuse_what_needs_a_function()
        from esper.compaction import compact_checkpoint, finished_files

        catalog, checkpoint = checkpoint_at(Path(target))
        settings = self._settings()
        finished = finished_files(catalog, checkpoint) if settings is None else None
        if finished is not None:
            finished.write(out, onnx=self.onnx)
            return _with_onnx(finished.facts, out)
        result = compact_checkpoint(catalog, checkpoint, settings)
        result.save(out, onnx=self.onnx)
        return _with_onnx(result.facts(), out)

    def _refuse_what_needs_a_function(self) -> None:
        asked = {
            "--block": bool(self.blocks),
            "--data": self.data is not None,
            "--allow-approximate": self.allow_approximate,
            "--fold": self.fold,
        }
        for option in (name for name, is_asked in asked.items() if is_asked):
            raise ConfigError(f"{option} belongs to the model of a module:function.")

    def _of_function(self, target: str, out: Path, hidden: bool) -> dict[str, Any]:
        from esper.compaction import compact

        if ":" not in target:
            raise ConfigError(
                f"Nothing can be cut at {target!r}: there is no such directory, and it is not of the form "
                "module:function. Name a run directory, a checkpoint, or a function that returns (model, "
                "sample)."
            )
        model, sample, *loss = built(target)
        if self.data is not None and not loss:
            raise ConfigError(
                f"The batches of {self.data} are judged by a loss: let {target} return it as third value."
            )
        with output.share_progress("choosing units", hidden or self.data is None) as told:
            result = compact(
                model,
                sample=sample,
                flops=self.flops,
                parameters=self.parameters,
                blocks=self.blocks,
                probe=None if self.data is None else batches_in(self.data),
                in_place=not self.as_program,
                allow_approximate=self.allow_approximate,
                fold=self.fold,
                loss=loss[0] if loss else None,
                progress=told,
            )
        result.save(out, onnx=self.onnx)
        return _with_onnx(result.facts(), out)

    def _settings(self) -> Settings | None:
        from esper.emrakul import Settings, Target

        if self.flops is None and self.parameters is None:
            return None
        if self.flops is not None and self.parameters is not None:
            raise ConfigError("Give one of --flops and --parameters: each says alone how much shall go.")
        return Settings(target=Target(flops=self.flops, parameters=self.parameters))


def _with_onnx(facts: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The facts, where they lie, and how far the ONNX file is from the network, if there is one."""
    from esper.runs.network import FORM_FILE

    written = json.loads((out / FORM_FILE).read_text())
    return {**facts, **{key: written[key] for key in ("onnx",) if key in written}, "out": str(out)}
