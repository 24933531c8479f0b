"""A cut network as files: weights and form for its class, a program for everybody else, ONNX if asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from esper.anatomy.archive import write_program
from esper.anatomy.cut import Form
from esper.anatomy.proof import Inputs
from esper.checkpoint import FileContent, FileRef, bundled, map_tensors, read_regular, write_bundle
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing, ContractError
from esper.leyline import decode, encode
from esper.nissa import LOGGER, events
from esper.runs.network.onnx import check_onnx, require_onnx, write_onnx

WEIGHTS_FILE = "model.safetensors"
FORM_FILE = "form.json"
PROGRAM_FILE = "network.pt2"
ONNX_FILE = "network.onnx"
GROWN = "grown"
"""What stands in the form's file of seeds that are parts of the network: how each is made, in their order."""
FORMLESS = "formless"
"""What stands there of a network without a form: why it has none."""
VERSION = 2
_READ_VERSIONS = (1, 2)  # the first had no digests beside it


@dataclass(frozen=True)
class NetworkFiles:
    """What is written: a program always, weights and form where a class can take them.

    Attributes:
        program: the cut network without code.
        inputs: inputs to check the ONNX file with.
        facts: what people want to know: widths, cost, proof.
        weights: the cut network's state dict by its own names; None if it was cut as a program only.
        form: what a fresh network must change before the weights fit.
    """

    program: ExportedProgram
    inputs: Inputs
    facts: Mapping[str, Any]
    weights: Mapping[str, Tensor] | None
    form: Form | None

    def write(self, directory: Path, *, onnx: bool = False) -> None:
        """Writes all files or none, durably, with their digests beside them.

        Raises:
            CheckpointError: the directory holds something already, or cannot be written.
            ConfigError: ONNX is asked for and its packages are missing.
            NotEquivalentError: the ONNX file computes something else.
        """
        if onnx:
            require_onnx()
        if directory.exists() and any(directory.iterdir()):
            raise CheckpointError(
                f"{directory} is not empty. Name a new directory, or remove what is there. Nothing was "
                "written."
            )
        try:
            with tempfile.TemporaryDirectory() as scratch:
                write_bundle(directory, self._contents(Path(scratch, ONNX_FILE) if onnx else None))
        except OSError as error:
            raise CheckpointError(
                f"{directory} cannot be written: {error.strerror}. Nothing was written."
            ) from error

    def _contents(self, onnx: Path | None) -> dict[str, FileContent]:
        """Every file by its name; an ONNX file is made at `onnx` first and checked by running it."""
        contents: dict[str, FileContent] = {PROGRAM_FILE: write_program(self.program)}
        record = dict(self.facts)
        if onnx is not None:
            write_onnx(self.program, onnx)
            record["onnx"] = check_onnx(self.program, onnx, self.inputs)
            contents[ONNX_FILE] = onnx
        if self.weights is not None and self.form is not None:
            weights = _once(self.weights)
            record["complex"] = [name for name, tensor in weights.items() if tensor.is_complex()]
            contents[WEIGHTS_FILE] = {name: _as_real(tensor) for name, tensor in weights.items()}
        form = None if self.form is None else encode(self.form)
        text = json.dumps({"version": VERSION, "form": form, **record}, indent=1, allow_nan=False)
        contents[FORM_FILE] = (text + "\n").encode()
        return contents


def state_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict.

    Raises:
        CheckpointError: it holds something else, which weights alone do not bring back.
    """
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(
            f"The network keeps {odd[0]!r} in its state dict, which is no tensor. Save the program only "
            "(.pt2), or keep that value elsewhere."
        )
    return dict(state)


def _once(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied tensors are stored under their first name."""
    first: dict[tuple[int, int, tuple[int, ...]], str] = {}
    for name, tensor in weights.items():
        first.setdefault((tensor.data_ptr(), tensor.numel(), tuple(tensor.shape)), name)
    names = set(first.values())
    return {name: tensor for name, tensor in weights.items() if name in names or not tensor.numel()}


def _as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs, which every reader of safetensors knows: one more axis of size 2."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor


def read_form(directory: Path) -> Form:
    """The form beside the weights of a cut network.

    Raises:
        CheckpointMissing: there is none, as for a network that was cut as a program.
        CheckpointCorrupt: the file is not what Esper writes, or not what was saved.
    """
    path = directory / FORM_FILE
    try:
        record = json.loads(read_file(path))
        if record["version"] not in _READ_VERSIONS:
            raise CheckpointCorrupt(
                f"{path} is of version {record['version']}, and this Esper reads version {VERSION}. Load it "
                "with the Esper that wrote it, and save it again."
            )
        return form_from(record["form"], path, record.get(FORMLESS, ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path} does not describe a cut network ({error!r}).") from error


def form_from(record: Mapping[str, Any] | None, path: Path, why: str = "") -> Form:
    """The form in a record that is already parsed.

    Args:
        record: None: there is none.
        path: where it was read.
        why: there is none; '' if nobody wrote that down.

    Raises:
        CheckpointMissing: there is none.
        CheckpointCorrupt: it is not what Esper writes.
    """
    if record is None:
        reason = why or "It was cut as a program, or what was done to it could not be done to a fresh one."
        raise CheckpointMissing(
            f"{path}: this network is there as a program only, and fills no instance of its class. {reason} "
            "Load it without model=."
        )
    try:
        return decode(Form, record)
    except ContractError as error:
        raise CheckpointCorrupt(f"{path} does not describe a cut network: {error}") from error


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The weights of a cut network, mapped from the file after it was verified.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
    """
    file = _verified(directory / WEIGHTS_FILE)
    weights = map_tensors(directory / WEIGHTS_FILE if file is None else file.path)
    try:
        names = json.loads(read_file(directory / FORM_FILE)).get("complex", [])
        return {**weights, **{name: torch.view_as_complex(weights[name]) for name in names}}
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointCorrupt(
            f"{directory}: {FORM_FILE} names complex tensors that {WEIGHTS_FILE} does not hold as pairs "
            f"({error!r})."
        ) from error


def read_file(path: Path) -> bytes:
    """The bytes of a file of a cut network, verified where its digest lies beside it.

    Raises:
        CheckpointMissing: it cannot be read.
        CheckpointCorrupt: the bytes are not those that were saved.
    """
    try:
        file = _verified(path)
        return read_regular(path) if file is None else file.read_bytes()
    except OSError as error:
        raise CheckpointMissing(f"{path} cannot be read: {error.strerror}.") from error


def _verified(path: Path) -> FileRef | None:
    """A file whose bytes are those that were saved; None if it was saved without digests, which is told."""
    file = bundled(path.parent, path.name)
    if file is None:
        _check_unbundled(path.parent)
    elif (problem := file.problem()) is not None:
        raise CheckpointCorrupt(
            f"{path.parent}: {problem}. Nothing was loaded. Copy the directory again from where it was "
            "saved, or save the network again."
        )
    return file


def _check_unbundled(directory: Path) -> None:
    """Tells of files that an earlier Esper saved without digests; refuses those that have lost theirs."""
    try:
        version = json.loads(read_regular(directory / FORM_FILE))["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # a program alone, which says nothing of itself
    if version != 1:
        raise CheckpointCorrupt(
            f"{directory} has lost its file of digests, so nobody can tell whether the others are what was "
            "saved. Copy all of it again from where it was saved, or save the network again."
        )
    LOGGER.emit(events.Undigested(str(directory)))
