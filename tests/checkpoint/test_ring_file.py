"""The key ring on disk."""

from __future__ import annotations

import multiprocessing
import os
import stat
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.layout import temporary_path
from esper.checkpoint.ring_file import (
    key_ring_to_change,
    open_key_ring,
    read_key_ring,
    replace_key_ring,
    ring_path,
)
from esper.checkpoint.storage import PosixStorage
from esper.errors import CheckpointMissing, ConfigError
from tests.checkpoint.runs import names


def test_a_ring_is_created_once_and_only_for_its_owner(run_dir: Path) -> None:
    first = open_key_ring(run_dir, create=True, environment={})
    path = run_dir / "keys" / "ring.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_key_ring(run_dir, create=True, environment={}) == first
    assert open_key_ring(run_dir, environment={}) == first
    assert names(path.parent) == ["ring.json"]


def test_a_missing_ring_is_not_made_by_a_reader(run_dir: Path) -> None:
    with pytest.raises(CheckpointMissing, match="ESPER_KEY_RING"):
        open_key_ring(run_dir, environment={})
    assert not run_dir.exists()


def test_the_environment_names_another_file(run_dir: Path, tmp_path: Path) -> None:
    environment = {"ESPER_KEY_RING": str(tmp_path / "vault" / "team.json")}
    ring = open_key_ring(run_dir, create=True, environment=environment)
    assert read_key_ring(tmp_path / "vault" / "team.json") == ring
    assert not run_dir.exists()
    assert ring_path(run_dir, {}) == run_dir / "keys" / "ring.json"


def open_at_once(run_dir: Path, start: Barrier, told: SimpleQueue[str]) -> None:
    start.wait()
    told.put(open_key_ring(run_dir, create=True, environment={}).primary.id)


def test_processes_that_start_at_once_get_the_same_ring(run_dir: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying"])  # one server for all tests that need processes
    start, told = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=open_at_once, args=(run_dir, start, told)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = {told.get() for _ in processes}
    for process in processes:
        process.join()
    assert len(answers) == 1
    assert names(run_dir / "keys") == ["ring.json"]


def test_a_ring_that_another_process_made_first_is_used(run_dir: Path) -> None:
    def slow(count: int) -> bytes:
        open_key_ring(run_dir, create=True, environment={}, random_bytes=lambda count: b"\1" * count)
        return b"\2" * count

    ring = open_key_ring(run_dir, create=True, environment={}, random_bytes=slow)
    assert ring.primary.secret == b"\1" * 32
    assert names(run_dir / "keys") == ["ring.json"]


def test_a_ring_that_others_can_open_is_refused(run_dir: Path) -> None:
    open_key_ring(run_dir, create=True, environment={})
    path = run_dir / "keys" / "ring.json"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"mode 0640\).*chmod 600"):
        open_key_ring(run_dir, environment={})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version":1,"keys":[]}',
        '{"version":1,"keys":[{"id":"a","state":"primary","secret":"zz"}]}',
        '{"version":1,"keys":[{"id":"a","state":"boss","secret":"00"}]}',
        '{"version":1,"keys":[],"extra":1}',
    ],
)
def test_a_file_that_is_no_ring_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ring.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refusal:
        read_key_ring(path)
    assert "secret" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_ring_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ring.json"
    path.write_text('{"version":2,"keys":[]}')
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="version 2"):
        read_key_ring(path)


def test_a_rotated_ring_replaces_the_old_one_whole(run_dir: Path) -> None:
    ring = open_key_ring(run_dir, create=True, environment={})
    rotated = ring.add().promote(ring.add().primary.id)
    path = ring_path(run_dir, {})
    replace_key_ring(path, rotated)
    assert read_key_ring(path) == rotated
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(path.parent) == ["ring.json"]


def test_a_ring_that_cannot_be_created_or_opened_says_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"/proc/esper/ring\.json cannot be created"):
        open_key_ring(tmp_path, create=True, environment={"ESPER_KEY_RING": "/proc/esper/ring.json"})
    (tmp_path / "run").write_text("a file stands here")
    with pytest.raises(ConfigError, match="cannot be created: File exists"):
        open_key_ring(tmp_path / "run", create=True, environment={})


def test_a_fresh_ring_takes_its_randomness_from_outside(run_dir: Path) -> None:
    assert open_key_ring(
        run_dir, create=True, environment={}, random_bytes=lambda count: b"\7" * count
    ) == KeyRing.fresh(lambda count: b"\7" * count)


@pytest.mark.parametrize("has_ring", [True, False])
def test_copies_of_the_secrets_that_a_kill_left_are_removed_by_the_next_start(
    run_dir: Path, has_ring: bool
) -> None:
    path = ring_path(run_dir, {})
    path.parent.mkdir(parents=True)
    if has_ring:
        open_key_ring(run_dir, create=True, environment={})
    for left in (temporary_path(path), path.with_name(".ring.json-77-0123abcd")):
        left.write_text("secret")
    for other in ("notes.txt", ".tmp-other-1-0123abcd"):
        (path.parent / other).touch()
    if has_ring:
        open_key_ring(run_dir, environment={})
        assert len(names(path.parent)) == 5  # a reader changes nothing
    open_key_ring(run_dir, create=True, environment={})
    assert names(path.parent) == [".tmp-other-1-0123abcd", "notes.txt", "ring.json"]


@pytest.mark.parametrize("number", range(1, 7))
def test_a_rotation_that_fails_leaves_the_old_ring_and_no_secret(run_dir: Path, number: int) -> None:
    ring = open_key_ring(run_dir, create=True, environment={})
    path, storage = ring_path(run_dir, {}), FaultyStorage(fail_at=number)
    rotated = ring.add()
    try:
        replace_key_ring(path, rotated, storage)
    except OSError:
        assert read_key_ring(path) in (ring, rotated)
    assert storage.fired == (number <= len(["create", "write", "sync", "replace", "sync_directory"]))
    assert names(path.parent) == ["ring.json"]


def test_a_rotation_whose_file_was_taken_for_debris_is_tried_again(run_dir: Path) -> None:
    class Overtaken(PosixStorage):
        overtaken = 0

        def replace(self, source: Path, target: Path) -> None:
            if self.overtaken < 2:
                self.overtaken += 1
                open_key_ring(run_dir, create=True, environment={})
            super().replace(source, target)

    ring = open_key_ring(run_dir, create=True, environment={}).add()
    replace_key_ring(ring_path(run_dir, {}), ring, Overtaken())
    assert open_key_ring(run_dir, environment={}) == ring


def test_a_pipe_in_the_place_of_a_ring_is_refused(run_dir: Path) -> None:
    path = ring_path(run_dir, {})
    path.parent.mkdir(parents=True)
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="cannot be opened: Not a regular file"):
        open_key_ring(run_dir, create=True, environment={})


def supplied(run_dir: Path, command: str) -> KeyRing:
    return open_key_ring(run_dir, create=True, environment={"ESPER_KEY_RING": f"exec:{command}"})


def test_a_command_supplies_a_ring_and_none_is_made(run_dir: Path, tmp_path: Path) -> None:
    ring = open_key_ring(tmp_path / "other", create=True, environment={})
    assert supplied(run_dir, f"cat '{tmp_path}/other/keys/ring.json'") == ring
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no-such-command", "No such file"),
        ("sh -c 'echo the vault is locked >&2; exit 3'", "exit code 3: the vault is locked"),
        ("echo hello", "What echo wrote is not a key ring"),
        ("cat 'ring", "ESPER_KEY_RING is no command: No closing quotation"),
        (" ", "names no command behind 'exec:'"),
    ],
)
def test_a_command_that_gives_no_ring_is_refused_by_what_it_said(
    run_dir: Path, command: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        supplied(run_dir, command)


def test_a_ring_is_changed_by_one_process_at_a_time_whichever_run_it_is_changed_for(tmp_path: Path) -> None:
    ring = open_key_ring(tmp_path, create=True, environment={})
    shared = {"ESPER_KEY_RING": str(tmp_path / "keys" / "ring.json")}
    with key_ring_to_change(tmp_path, {}) as (path, found):
        assert found == ring
        with (
            pytest.raises(ConfigError, match="is being changed by another process"),
            key_ring_to_change(tmp_path / "another", shared),
        ):
            raise AssertionError
        replace_key_ring(path, ring.add())
    with key_ring_to_change(tmp_path / "another", shared) as (_, found):
        assert len(found.keys) == 2


def test_a_change_goes_to_where_a_link_leads(tmp_path: Path) -> None:
    ring = open_key_ring(tmp_path / "vault", create=True, environment={})
    link = tmp_path / "run" / "keys" / "ring.json"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "vault" / "keys" / "ring.json")
    with key_ring_to_change(tmp_path / "run", {}) as (path, _):
        replace_key_ring(path, ring.add())
    assert link.is_symlink()
    assert len(open_key_ring(tmp_path / "vault", environment={}).keys) == 2


def test_a_ring_whose_directory_others_can_write_is_refused(run_dir: Path) -> None:
    open_key_ring(run_dir, create=True, environment={})
    (run_dir / "keys").chmod(0o777)
    with pytest.raises(ConfigError, match=r"Other users can write the directory .*`chmod go-w"):
        open_key_ring(run_dir, environment={})
    (run_dir / "keys").chmod(0o1777)  # as /tmp: nobody can put another file there
    open_key_ring(run_dir, environment={})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_ring_of_another_user_is_refused(run_dir: Path) -> None:
    open_key_ring(run_dir, create=True, environment={})
    os.chown(run_dir / "keys" / "ring.json", 12345, -1)
    with pytest.raises(ConfigError, match=r"belongs to another user \(12345\)"):
        open_key_ring(run_dir, environment={})
