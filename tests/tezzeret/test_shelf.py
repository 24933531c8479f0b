"""What lies on the shelf is believed only if every byte, its seal, its run and its order are right."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esper.checkpoint import SealedFolder, due, rekey
from esper.errors import CheckpointCorrupt, CheckpointMissing
from esper.leyline.wire import messages
from esper.tezzeret.making import held, made
from esper.tezzeret.shelf import Kernel
from tests.tezzeret.makers import MAKERS
from tests.tezzeret.shelves import RING, order, shelf, smith


def put(run: Path, name: str = "sound", **changes: int | str) -> Path:
    """Makes a kernel; the folder that it lies in."""
    wanted = order(name, **changes)  # type: ignore[arg-type]
    assert isinstance(smith(run).fetch(wanted).kernel, Kernel)
    return run / "kernels" / wanted.name


def test_a_kernel_is_taken_down_as_it_was_made(tmp_path: Path) -> None:
    put(tmp_path)
    kernel = shelf(tmp_path).load(order("sound"))
    own = held(made(order("sound"), MAKERS["sound"], torch.device("cpu")))
    assert kernel.tensors.keys() == own.keys()
    assert all(torch.equal(kernel.tensors[name], tensor) for name, tensor in own.items())
    assert {check.name for check in kernel.artifact.checks} >= {"identity", "latency", "leak", "ownership"}
    assert all(check.passed and check.HasField("value") for check in kernel.artifact.checks)
    assert kernel.artifact.metrics["forward_seconds"] > 0
    assert kernel.artifact.status == messages.HEALTH_STATUS_HEALTHY
    assert sorted(path.name for path in (tmp_path / "kernels").iterdir()) == [order("sound").name]


def test_a_kernel_is_taken_down_when_the_key_that_sealed_it_is_gone(tmp_path: Path) -> None:
    put(tmp_path)
    added = RING.add()
    rotated = added.promote(added.keys[-1].id)
    alone = rotated.disable(RING.primary.id).destroy(RING.primary.id)
    assert f"kernels/{order('sound').name}" in rekey(tmp_path, rotated, due(tmp_path, rotated)).sealed
    assert shelf(tmp_path, ring=alone).load(order("sound")).artifact.status == messages.HEALTH_STATUS_HEALTHY


def truncated(folder: Path, _: Path) -> None:
    os.truncate(folder / "weights.safetensors", 100)


def altered(folder: Path, _: Path) -> None:
    raw = bytearray((folder / "weights.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(raw)


def without_a_seal(folder: Path, _: Path) -> None:
    manifest = folder / "MANIFEST.json"
    manifest.write_bytes(manifest.read_bytes().splitlines()[0])


def gone(folder: Path, _: Path) -> None:
    (folder / "artifact.pb").unlink()


def of_another_slot(folder: Path, _: Path) -> None:
    other = put(folder.parents[1], slot="layers.9")
    shutil.rmtree(folder)
    other.rename(folder)


def weights_of_another_slot(folder: Path, _: Path) -> None:
    other = put(folder.parents[1], slot="layers.9", generation=2)
    shutil.copy(other / "weights.safetensors", folder)


def of_another_run(folder: Path, elsewhere: Path) -> None:
    other = put(elsewhere)
    shutil.rmtree(folder)
    shutil.copytree(other, folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "has 100 bytes instead of"),
        (altered, "other bytes than were saved"),
        (without_a_seal, "without a seal"),
        (gone, "artifact.pb"),
        (of_another_slot, "belongs to kernel"),
        (weights_of_another_slot, "other bytes than were saved"),
        (of_another_run, "it is of run"),
    ],
)
def test_what_is_not_right_is_found_set_aside_and_made_again(
    tmp_path: Path, damage: Callable[[Path, Path], None], said: str
) -> None:
    run = tmp_path / "run"
    folder = put(run)
    before = shelf(run).load(order("sound"))
    damage(folder, tmp_path / "elsewhere")
    with pytest.raises(CheckpointCorrupt, match=said):
        shelf(run).load(order("sound"))
    fetched = smith(run).fetch(order("sound"))
    assert said in fetched.rejected
    assert fetched.is_made
    assert isinstance(fetched.kernel, Kernel)
    assert all(torch.equal(before.tensors[name], t) for name, t in fetched.kernel.tensors.items())
    assert any(path.name.startswith(".aside-") for path in (run / "kernels").iterdir())


def test_what_was_never_made_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        shelf(tmp_path).load(order("sound"))


def test_a_sealed_kernel_that_was_made_for_another_order_is_not_taken(tmp_path: Path) -> None:
    """Whoever holds the key could seal anything: what is inside has to agree with what was asked for."""
    folder = put(tmp_path)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "MANIFEST.json"}
    artifact = messages.KernelArtifact.FromString(files["artifact.pb"])
    for change, said in (
        ({"request": order("sound", slot="x").message()}, "made for seed 1 at 'x'"),
        ({"program": messages.ArrayReference(blake3="0" * 64)}, "not those that were checked"),
        ({"checks": [messages.KernelCheck(name="leak")]}, "has not passed"),
    ):
        other = messages.KernelArtifact.FromString(artifact.SerializeToString())
        for name, value in change.items():
            other.ClearField(name)
            other.MergeFrom(messages.KernelArtifact(**{name: value}))  # type: ignore[arg-type]
        run = folder_of(tmp_path)
        run.commit(order("sound").name, {**files, "artifact.pb": other.SerializeToString()})
        with pytest.raises(CheckpointCorrupt, match=said):
            shelf(tmp_path).load(order("sound"))


def folder_of(run: Path) -> SealedFolder:
    return shelf(run)._folder


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    few = shelf(tmp_path, max_kernels=2)
    for generation in (1, 2, 3):
        put(tmp_path, generation=generation)
    few._folder.keep_newest(2, 1 << 20)
    names = {path.name for path in (tmp_path / "kernels").iterdir()}
    assert names == {order("sound", generation=2).name, order("sound", generation=3).name}
    few._folder.keep_newest(2, 1)
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {order("sound", generation=3).name}


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    put(tmp_path)
    left = tmp_path / "kernels" / f".tmp-{order('sound').name}-1-abc"
    left.mkdir()
    (left / "weights.safetensors").write_bytes(b"half")
    shelf(tmp_path).place_for(order("sound", generation=2))
    assert not left.exists()
