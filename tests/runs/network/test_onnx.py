"""An ONNX file is held against the program that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.functional import cross_entropy

from esper.anatomy.proof import Inputs
from esper.anatomy.twin import for_everybody
from esper.runs.network.onnx import check_onnx, write_onnx


class OwnLoss(nn.Module):
    """Computes its own loss where it is given labels, as networks of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.layer(values)
        return {"logits": logits} | ({} if labels is None else {"loss": cross_entropy(logits, labels)})


class Twice(nn.Module):
    """As many rows again, of any length."""

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cat((ids, ids * 2.0))


def test_sizes_that_are_open_have_names_for_people(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    inputs = (torch.randn(5, 7),)
    program = torch.export.export(Twice(), inputs, dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},))
    write_onnx(program, tmp_path / "network.onnx")
    graph = onnx.load(str(tmp_path / "network.onnx")).graph
    sizes = [
        [size.dim_param for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    assert sizes == [["batch", "ids_1"], ["2*batch", "ids_1"]]
    assert check_onnx(program, tmp_path / "network.onnx", Inputs(inputs, {}))["error"] <= 1e-5


def test_a_batch_with_labels_checks_the_file_of_a_program_that_takes_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnx")
    batch = {"labels": torch.zeros(5, dtype=torch.long), "values": torch.randn(5, 4)}
    program = for_everybody(OwnLoss(), (), batch)
    write_onnx(program, tmp_path / "network.onnx")
    assert check_onnx(program, tmp_path / "network.onnx", Inputs((), batch))["error"] <= 1e-5
