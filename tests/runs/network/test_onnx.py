"""An ONNX file is held against the program that it was made of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
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


def test_a_batch_with_labels_checks_the_file_of_a_program_that_takes_none(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnx")
    batch = {"labels": torch.zeros(5, dtype=torch.long), "values": torch.randn(5, 4)}
    program = for_everybody(OwnLoss(), (), batch)
    write_onnx(program, tmp_path / "network.onnx")
    assert check_onnx(program, tmp_path / "network.onnx", Inputs((), batch))["error"] <= 1e-5
