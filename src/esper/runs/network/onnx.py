"""A cut network as an ONNX file, checked by running it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from esper.anatomy.proof import RUNTIME_LIMIT, Inputs, largest_difference
from esper.errors import ConfigError, NotEquivalentError

NEEDED = ("onnx", "onnxscript")


def require_onnx(needed: Sequence[str] = NEEDED) -> None:
    """Refuses early if a package is missing.

    Raises:
        ConfigError: it names the package and the way out.
    """
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX files are written with the packages onnx and onnxscript; missing: {', '.join(missing)}. "
            "Install them with `pip install 'esper-torch[onnx]'`, or do without ONNX: the .pt2 file needs "
            "torch only. Nothing was written."
        )


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Writes the program as one ONNX file (weights beside it from 2 GiB on)."""
    require_onnx()
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            torch.onnx.export(program, f=str(path), dynamo=True, external_data=False, verbose=False)
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
    _name_axes(path)


def _name_axes(path: Path) -> None:
    """Gives open sizes names for people: `batch` instead of the tracer's `s63`, `ids_1` instead of `s27`."""
    onnx = import_module("onnx")
    model = onnx.load(str(path), load_external_data=False)
    given, names = model.graph.input, dict[str, str]()
    for value in given:
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            if size.dim_param:
                names.setdefault(size.dim_param, f"{value.name}_{axis}" if axis else "batch")
    # Sizes of what comes out may be reckoned from them: `2*s63`.
    symbols = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) or r"(?!)")
    for value in (*given, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = symbols.sub(lambda found: names[found.group()], size.dim_param)
    onnx.save(model, str(path))


def check_onnx(program: ExportedProgram, path: Path, inputs: Inputs) -> dict[str, Any]:
    """Runs the file on the inputs and compares it with the program in float32.

    Runs with onnxruntime where it is installed, else with the reference evaluator of onnx.

    Returns:
        The engine's name and the largest relative difference.

    Raises:
        NotEquivalentError: it differs by more than `RUNTIME_LIMIT`.
    """
    module = program.module()
    asked = {name: inputs.kwargs[name] for name in program.call_spec.in_spec.child(1).context}  # no labels
    with torch.no_grad():
        wanted = _tensors(module(*inputs.args, **asked))
    engine, found = _run(path, [np.asarray(leaf) for leaf in _tensors((inputs.args, asked))])
    error = largest_difference((torch.from_numpy(value.copy()) for value in found), wanted)
    if not error <= RUNTIME_LIMIT:
        raise NotEquivalentError(
            f"The ONNX file differs from the network by {error:.2g} when {engine} runs it (limit "
            f"{RUNTIME_LIMIT:g}). Nothing was written. Deploy the .pt2 file, or report the operator to "
            "torch.onnx."
        )
    return {"engine": engine, "error": error}


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _run(path: Path, inputs: list[np.ndarray[Any, Any]]) -> tuple[str, list[np.ndarray[Any, Any]]]:
    if find_spec("onnxruntime") is not None:
        runtime = import_module("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]
        return "onnxruntime", session.run(None, dict(zip(names, inputs, strict=True)))
    evaluator = import_module("onnx.reference").ReferenceEvaluator(str(path))
    return "onnx.reference", evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=True)))
