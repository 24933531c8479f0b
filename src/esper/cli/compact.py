"""`esper compact`: a smaller network as files, from a run, a checkpoint, or a function that builds one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli.targets import built, checkpoint_at
from esper.errors import ConfigError

if TYPE_CHECKING:
    from esper.emrakul import Settings


def compact_target(
    target: str, out: Path, *, flops: float | None, parameters: float | None, as_program: bool, onnx: bool
) -> dict[str, Any]:
    """Cuts what a target names and writes it into a new directory; returns the facts.

    A checkpoint loses the units that are masked in it, and more up to the share that is asked for; a
    function's model loses that share. The finished network of a run is written as it is.

    Raises:
        ConfigError: it is not said what shall go, or the target names nothing.
        EsperError: it cannot be cut or written; nothing was.
    """
    if not Path(target).is_dir():
        return _of_function(target, out, flops, parameters, as_program, onnx)
    from esper.session.offline import compact_checkpoint, finished_files

    catalog, checkpoint = checkpoint_at(Path(target))
    settings = _settings(flops, parameters)
    finished = finished_files(catalog, checkpoint) if settings is None else None
    if finished is not None:
        finished.write(out, onnx=onnx)
        return {**finished.facts, "out": str(out)}
    result = compact_checkpoint(catalog, checkpoint, settings)
    result.save(out, onnx=onnx)
    return {**result.facts(), "out": str(out)}


def _of_function(
    target: str, out: Path, flops: float | None, parameters: float | None, as_program: bool, onnx: bool
) -> dict[str, Any]:
    from esper.session import compact

    if ":" not in target:
        raise ConfigError(
            f"Nothing can be cut at {target!r}: there is no such directory, and it is not of the form "
            "module:function. Name a run directory, a checkpoint, or a function that returns (model, sample)."
        )
    model, sample, *loss = built(target)
    result = compact(
        model,
        sample=sample,
        flops=flops,
        parameters=parameters,
        in_place=not as_program,
        loss=loss[0] if loss else None,
    )
    result.save(out, onnx=onnx)
    return {**result.facts(), "out": str(out)}


def _settings(flops: float | None, parameters: float | None) -> Settings | None:
    from esper.emrakul import Settings, Target

    if flops is None and parameters is None:
        return None
    if flops is not None and parameters is not None:
        raise ConfigError("Give one of --flops and --parameters: each says alone how much shall go.")
    return Settings(target=Target(flops=flops, parameters=parameters))
