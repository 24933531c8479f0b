"""Files of `torch.save` and `torch.export.save` become safe ones, or are refused with the reason."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as tensor_bytes
from torch import nn

from esper.anatomy.archive import read_module
from esper.checkpoint import SHARED, FaultyStorage, bundled
from esper.errors import CheckpointCorrupt, CheckpointError, ConfigError
from esper.runs.foreign import bring
from esper.runs.foreign.bringing import _written
from esper.runs.foreign.reading import LENGTH
from esper.workers.confinement import Caps, Confined, can_filter, run_confined
from tests.runs.foreign import nested

confined = pytest.mark.skipif(not can_filter(), reason="this kernel confines no process")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.victim),)


@confined
def test_a_checkpoint_becomes_tensors_by_path_and_a_document_of_the_rest(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    shared = torch.randn(3).bfloat16()
    saved: dict[str, Any] = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": float("inf"),
        "phase": torch.tensor([1 + 2j]),
        "tied": {"a": shared, "b": shared},
        "none": torch.zeros(0, 3),
        "sparse": torch.eye(2).to_sparse(),
        "raw": b"bytes",
    }
    torch.save(saved, tmp_path / "net.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "net.pt")
    brought = bring(tmp_path / "link.pt", tmp_path / "out")

    tensors = load_file(tmp_path / "out" / "tensors.safetensors")
    for name, one in net.state_dict().items():
        assert torch.equal(tensors[f"model.{name}"], one)
    assert torch.equal(tensors["optimizer.state.0.exp_avg"], saved["optimizer"]["state"][0]["exp_avg"])
    assert tensors["tied.a"].dtype is torch.bfloat16
    assert torch.equal(tensors["tied.b"], shared)
    assert tensors["none"].shape == (0, 3)
    assert torch.view_as_complex(tensors["phase"]).tolist() == [1 + 2j]

    document = json.loads((tmp_path / "out" / "content.json").read_text())
    content = document["content"]
    assert (content["epoch"], content["best"]) == (3, "inf")
    assert content["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.999]
    assert content["optimizer"]["state"]["0"]["exp_avg"] == {"$tensor": "optimizer.state.0.exp_avg"}
    assert document["was"]["best"] == "float"
    assert document["was"]["optimizer.state"] == "keys of type int"
    assert document["tied"] == [["tied.a", "tied.b"]]
    assert set(document["left_out"]) == {"sparse", "raw"}
    assert brought.document == document
    assert "could write, connect, start nothing" in brought.how
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.pt", "net.pt", "out"]


@confined
def test_what_only_code_can_build_is_refused_by_name_and_nothing_happens(tmp_path: Path) -> None:
    torch.save({"a": Bomb(tmp_path / "taken")}, tmp_path / "bomb.pt")
    with pytest.raises(CheckpointCorrupt, match=r"only code can build \((posix|os)\.mkdir\)"):
        bring(tmp_path / "bomb.pt", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["bomb.pt"]


@confined
def test_tensors_that_claim_more_than_the_file_holds_are_stopped(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 36)}, tmp_path / "wide.pt")
    with pytest.raises(CheckpointCorrupt, match="too much memory"):
        bring(tmp_path / "wide.pt", tmp_path / "out")


@confined
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pt")
    os.truncate(tmp_path / "cut.pt", 2000)
    with pytest.raises(CheckpointCorrupt, match="cut short"):
        bring(tmp_path / "cut.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@confined
def test_what_is_no_such_file_at_all_is_said_to_be_none(tmp_path: Path) -> None:
    for name, content in (("text.pt", b"hello"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointCorrupt, match=r"it is no file of torch\.save") as told:
            bring(tmp_path / name, tmp_path / "out")
        assert "Name a file of torch.save" in str(told.value)
        assert "Error" not in str(told.value)


@confined
def test_a_program_that_does_more_than_compute_is_refused_with_advice_about_programs(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "good.pt2")
    with (
        zipfile.ZipFile(tmp_path / "good.pt2") as old,
        zipfile.ZipFile(tmp_path / "evil.pt2", "w") as new,
    ):
        for entry in old.infolist():
            new.writestr(
                entry.filename, old.read(entry).replace(b"torch.ops.aten.relu.default", b"os.system")
            )
    with pytest.raises(
        CheckpointCorrupt, match=r"it is a program that holds the operator 'os\.system'"
    ) as told:
        bring(tmp_path / "evil.pt2", tmp_path / "out")
    assert "export there a network that only computes" in str(told.value)
    assert "state_dict" not in str(told.value)


@confined
def test_where_no_process_can_be_confined_nothing_is_read_unless_that_is_asked_for(tmp_path: Path) -> None:
    """A confined process is such a place: it may confine no other."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "net.pt")
    answer = io.BytesIO()
    with (tmp_path / "net.pt").open("rb") as file:
        ended = run_confined(nested.import_it, file, answer, Caps(1 << 30, 60, 1 << 20))
    assert isinstance(ended, Confined), ended
    assert b"This system cannot confine a process" in answer.getvalue()
    assert b"--unconfined" in answer.getvalue()


@confined
def test_a_program_loses_its_pickled_inputs_and_computes_the_same(tmp_path: Path) -> None:
    net, sample = nn.Linear(4, 2), torch.randn(3, 4)
    torch.export.save(torch.export.export(net, (sample,)), tmp_path / "net.pt2")
    brought = bring(tmp_path / "net.pt2", tmp_path / "out")
    module = read_module((tmp_path / "out" / "program.pt2").read_bytes())
    assert torch.equal(module(sample), net(sample))
    assert list(brought.document["left_out"].values()) == ["sample inputs, which are pickled"]


def test_what_is_no_file_or_has_no_place_is_refused_before_anything_starts(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no regular file"):
        bring(tmp_path / "pipe", tmp_path / "out", unconfined=True)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        bring(tmp_path / "none", tmp_path / "out", unconfined=True)
    with pytest.raises(ConfigError, match="is there already"):
        bring(tmp_path / "pipe", tmp_path, unconfined=True)
    assert [one.name for one in tmp_path.iterdir()] == ["pipe"]


def answered(document: Any, content: bytes) -> io.BytesIO:
    text = json.dumps(document).encode()
    return io.BytesIO(LENGTH.pack(len(text)) + text + content)


def test_a_full_disk_leaves_nothing_and_what_a_killed_import_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-out-7-0123abcd"
    left.mkdir()
    document = {"kind": "tensors", "left_out": {}, "tensors": 0}
    full = FaultyStorage(fail_at=0, error="ENOSPC", lasting=True, inner=SHARED)
    _written(Path("net.pt"), tmp_path / "out", answered(document, tensor_bytes({})), "", full)
    full.fail_at = len(full.calls) + full.calls.index("write") + 1
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(OSError, match="No space left"):
        _written(Path("net.pt"), tmp_path / "out", answered(document, tensor_bytes({})), "", full)
    assert list(tmp_path.iterdir()) == []
    left.mkdir()
    brought = _written(Path("net.pt"), tmp_path / "out", answered(document, tensor_bytes({})), "")
    assert brought.swept == (left,)
    for file in brought.files:
        digest = bundled(tmp_path / "out", file.name)
        assert digest is not None
        assert digest.problem() is None


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    with pytest.raises(
        CheckpointError, match=r"net.pt was not imported: .*something else is in the way.*another folder"
    ):
        bring(tmp_path / "net.pt", tmp_path / "net.pt" / "out", unconfined=True)


@pytest.mark.parametrize(
    "answer",
    [
        io.BytesIO(),
        io.BytesIO(LENGTH.pack(1 << 60)),
        answered([], b""),
        answered({"kind": "../x", "left_out": {}, "tensors": 0}, b""),
        answered({"kind": "tensors", "left_out": {}, "tensors": 0}, struct.pack("<Q", 1 << 60)),
        answered({"kind": "tensors", "left_out": {}, "tensors": 5}, struct.pack("<Q", 2) + b"{}"),
        answered(
            {"kind": "tensors", "left_out": {"a": "\x1b[2J"}, "tensors": 0}, struct.pack("<Q", 2) + b"{}"
        ),
        answered({"kind": "program", "left_out": {}, "tensors": 5}, b"PK"),
    ],
    ids=["nothing", "enormous", "no mapping", "kind", "enormous header", "fewer", "escapes", "no program"],
)
def test_an_answer_that_a_taken_over_process_makes_up_is_not_believed(
    answer: io.BytesIO, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointCorrupt, match="is not whole"):
        _written(Path("net.pt"), tmp_path / "out", answer, "")
    assert list(tmp_path.iterdir()) == []
