"""Masks of a checkpoint are cut from its twin, without the network's code: whole layers like channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from esper.checkpoint import CheckpointCatalog, open_key_ring
from esper.compaction.offline import compact_checkpoint, finished_files
from tests.session.runs import Training
from tests.session.test_layers import run


def test_a_layer_that_is_masked_in_a_checkpoint_is_not_in_the_network_that_is_made_of_it(
    tmp_path: Path,
) -> None:
    with run(tmp_path / "run") as training:
        network = training.session.parts.network
        anatomy = network.anatomy
        keep = np.ones(anatomy.num_units, np.bool_)
        keep[anatomy.unit_slice(anatomy.group_named("layer:2.down"))] = False
        keep[anatomy.unit_slice(anatomy.group_named("1.up"))][:4] = False
        network.masks.apply(keep)
        training.epoch()
        training.session.parts.saving.settle()
        catalog = CheckpointCatalog(tmp_path / "run", open_key_ring(tmp_path / "run"))
        result = compact_checkpoint(catalog, catalog.list().checkpoints[-1], None)
        x = training.held_out[0][:16]
        training.model.eval()
        torch.testing.assert_close(result.model(x), training.model(x))
    assert result.blocks == ("2",)
    assert sum(p.numel() for p in result.model.parameters()) == result.parameters_after
    assert result.parameters_after < result.parameters_before


def test_a_finished_run_from_which_nothing_was_cut_does_not_speak_of_cuts(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.epoch()
    training.session.finish(latency=False)
    catalog = CheckpointCatalog(tmp_path / "run", open_key_ring(tmp_path / "run"))
    files = finished_files(catalog, catalog.list().checkpoints[-1])
    assert files is not None
    assert files.facts["notes"] == ["The network of a finished run; nothing was cut from it."]
