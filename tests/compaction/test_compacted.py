"""What a cut at once did, told and kept for everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import esper
from tests.anatomy.networks import ZOO
from tests.compaction.test_compact import compacted, outputs, small


def test_what_went_is_told_in_a_few_lines() -> None:
    done = compacted(small())
    head, *lines = repr(done).splitlines()
    assert f"{1 - done.flops_after / done.flops_before:.1%} of the FLOPs gone" in head
    assert "equal to the masked network within" in head
    assert [line.split()[0] for line in lines if " to " in line] == [
        row.group for row in done.widths if row.after < row.before
    ]
    assert "what it costs in quality was not measured" in lines[-1]


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_texts_of_any_length_are_taken_without_the_class(tmp_path: Path, name: str) -> None:
    network, sample = ZOO[name].network(), ZOO[name].input()
    esper.compact(network, sample=sample, flops=0.3).save(tmp_path / "out")
    tokens = sample["input_ids"] if isinstance(sample, dict) else sample
    longer = torch.cat([tokens, tokens[:, :3]], 1)
    given = {**sample, "input_ids": longer} if isinstance(sample, dict) else longer
    for mine, own in zip(outputs(esper.load(tmp_path / "out"), given), outputs(network, given), strict=False):
        torch.testing.assert_close(mine, own)
