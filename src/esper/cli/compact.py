"""`esper compact`: a smaller network as files, from a run, a checkpoint, or a function that builds one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.cli import output
from esper.cli.batches import batches_in
from esper.cli.targets import built, checkpoint_at
from esper.errors import ConfigError

if TYPE_CHECKING:
    from esper.emrakul import Settings


def compact_target(
    target: str,
    out: Path,
    *,
    flops: float | None,
    parameters: float | None,
    data: Path | None,
    as_program: bool,
    onnx: bool,
    hidden: bool,
) -> dict[str, Any]:
    """Cuts what a target names and writes it into a new directory; returns the facts.

    A checkpoint loses the units that are masked in it, and more up to the share that is asked for; a
    function's model loses that share, chosen by the loss on `data` if that is given. The finished network of
    a run is written as it is. Unless `hidden`, a bar shows how far a choice is.

    Raises:
        ConfigError: it is not said what shall go, or the target names nothing.
        EsperError: it cannot be cut or written; nothing was.
    """
    if not Path(target).is_dir():
        return _of_function(target, out, flops, parameters, data, as_program, onnx, hidden)
    if data is not None:
        raise ConfigError("--data belongs to the model of a module:function.")
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
    target: str,
    out: Path,
    flops: float | None,
    parameters: float | None,
    data: Path | None,
    as_program: bool,
    onnx: bool,
    hidden: bool,
) -> dict[str, Any]:
    from esper.session import compact

    if ":" not in target:
        raise ConfigError(
            f"Nothing can be cut at {target!r}: there is no such directory, and it is not of the form "
            "module:function. Name a run directory, a checkpoint, or a function that returns (model, sample)."
        )
    model, sample, *loss = built(target)
    if data is not None and not loss:
        raise ConfigError(
            f"The batches of {data} are judged by a loss: let {target} return it as third value."
        )
    with output.share_progress("choosing units", hidden or data is None) as told:
        result = compact(
            model,
            sample=sample,
            flops=flops,
            parameters=parameters,
            probe=None if data is None else batches_in(data),
            in_place=not as_program,
            loss=loss[0] if loss else None,
            progress=told,
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
