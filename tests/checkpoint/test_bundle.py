"""A directory of files that proves itself without a key."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
import torch

from esper.checkpoint.bundle import SUMS_FILE, bundled, write_bundle
from esper.checkpoint.content import FileContent
from esper.errors import CheckpointCorrupt
from tests.checkpoint.runs import names

FILES: dict[str, FileContent] = {
    "network.pt2": b"program",
    "model.safetensors": {"w": torch.ones(3)},
    "form.json": b"{}\n",
}


def is_intact(directory: Path) -> bool:
    try:
        files = [bundled(directory, name) for name in FILES]
    except CheckpointCorrupt:
        return False
    return all(file is not None and file.problem() is None for file in files)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_bundle_lies_whole_in_a_new_or_an_empty_directory_for_all_to_read(
    tmp_path: Path, is_there: bool
) -> None:
    out = tmp_path / "a" / "out"
    if is_there:
        out.mkdir(parents=True)
    write_bundle(out, FILES)
    assert names(out) == sorted([SUMS_FILE, *FILES])
    assert names(out.parent) == ["out"]
    assert is_intact(out)
    umask = os.umask(0o22)
    os.umask(umask)
    assert stat.S_IMODE((out / "form.json").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask


def test_nothing_is_written_where_something_lies_already(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OSError, match="not empty"):
        write_bundle(tmp_path / "out", FILES)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mine"]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out", FILES)
    for path in (tmp_path / "out").iterdir():
        raw = path.read_bytes()
        for position in range(len(raw)):
            changed = bytearray(raw)
            changed[position] ^= 1 << position % 8
            path.write_bytes(changed)
            assert not is_intact(tmp_path / "out"), (path.name, position)
        path.write_bytes(raw)
    assert is_intact(tmp_path / "out")


def test_a_file_that_is_missing_cut_or_a_pipe_is_noticed(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out", FILES)
    for name in (*FILES, SUMS_FILE):
        for damage in ("cut", "gone", "pipe"):
            copy = Path(shutil.copytree(tmp_path / "out", tmp_path / f"{name}-{damage}"))
            if damage == "cut":
                os.truncate(copy / name, (copy / name).stat().st_size - 1)
            else:
                (copy / name).unlink()
            if damage == "pipe":
                os.mkfifo(copy / name)
            assert not is_intact(copy), (name, damage)


def test_what_a_killed_writer_left_is_swept_and_what_one_is_making_is_not(tmp_path: Path) -> None:
    left, other = tmp_path / ".tmp-out-7-0123abcd", tmp_path / ".tmp-outer-7-0123abcd"
    for path in (left, other):
        path.mkdir()
        (path / "network.pt2").touch()
    swept: list[Path] = []

    def meanwhile(making: Path) -> None:
        swept.extend(write_bundle(tmp_path / "out", FILES))
        assert making.exists()

    with pytest.raises(OSError, match="not empty"):  # the other was faster
        write_bundle(tmp_path / "out", FILES, check=meanwhile)
    assert swept == []
    assert names(tmp_path) == [other.name, "out"]
    left.mkdir()
    (tmp_path / "out").rename(tmp_path / "before")
    assert write_bundle(tmp_path / "out", FILES) == (left,)


def test_what_a_look_at_the_files_refuses_is_taken_back(tmp_path: Path) -> None:
    def refuse(making: Path) -> None:
        assert (making / SUMS_FILE).exists()
        raise CheckpointCorrupt("no")

    with pytest.raises(CheckpointCorrupt):
        write_bundle(tmp_path / "out", FILES, check=refuse)
    assert names(tmp_path) == []


def test_a_directory_without_digests_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "network.pt2").touch()
    assert bundled(tmp_path, "network.pt2") is None
