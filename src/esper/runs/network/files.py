"""A cut network as files: weights and form for its class, a program for everybody else, ONNX if asked for."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from esper.anatomy.cut import Form
from esper.anatomy.proof import Inputs
from esper.anatomy.twin import to_bytes
from esper.checkpoint import file_pieces, map_tensors
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from esper.runs.network.onnx import check_onnx, require_onnx, write_onnx

WEIGHTS_FILE = "model.safetensors"
FORM_FILE = "form.json"
PROGRAM_FILE = "network.pt2"
ONNX_FILE = "network.onnx"
VERSION = 1


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
        """Writes all files or none.

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
            directory.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        except OSError as error:
            raise CheckpointError(f"{directory} cannot be made: {error.strerror}.") from error
        try:
            self._write(building, onnx)
            building.chmod(0o755)
            if directory.exists():
                directory.rmdir()
            building.rename(directory)
        except OSError as error:
            raise CheckpointError(f"{directory} cannot be written: {error.strerror}.") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _write(self, directory: Path, onnx: bool) -> None:
        (directory / PROGRAM_FILE).write_bytes(to_bytes(self.program))
        record = dict(self.facts)
        if onnx:
            write_onnx(self.program, directory / ONNX_FILE)
            record["onnx"] = check_onnx(self.program, directory / ONNX_FILE, self.inputs)
        if self.weights is not None and self.form is not None:
            with (directory / WEIGHTS_FILE).open("xb") as file:
                file.writelines(file_pieces(_once(self.weights)))
        form = None if self.form is None else self.form.to_json()
        text = json.dumps({"version": VERSION, "form": form, **record}, indent=1, allow_nan=False)
        (directory / FORM_FILE).write_text(text + "\n", encoding="utf-8")


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


def read_form(directory: Path) -> Form:
    """The form beside the weights of a cut network.

    Raises:
        CheckpointMissing: the network was cut as a program, so there is none.
        CheckpointCorrupt: the file is not what Esper writes.
    """
    path = directory / FORM_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointMissing(f"{path} cannot be read: {error.strerror}.") from error
    try:
        record = json.loads(text)
        if record["version"] != VERSION:
            raise CheckpointCorrupt(
                f"{path} is of version {record['version']}, and this Esper reads version {VERSION}. Load it "
                "with the Esper that wrote it, and save it again."
            )
        return form_from(record["form"], path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointCorrupt(f"{path} does not describe a cut network ({error!r}).") from error


def form_from(record: Mapping[str, Any] | None, path: Path) -> Form:
    """The form in a record that is already parsed."""
    if record is None:
        raise CheckpointMissing(
            f"{path}: this network was cut as a program, and its class was never asked whether it runs at "
            "the new sizes. Load it without model=."
        )
    return Form.from_json(record)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The weights of a cut network, mapped from the file."""
    return map_tensors(directory / WEIGHTS_FILE)
