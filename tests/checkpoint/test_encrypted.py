"""What is encrypted opens by the ring's key only, and not after any change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
import torch

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.encrypted import (
    CHUNK_BYTES,
    HEADER_BYTES,
    SLOTS,
    FileKey,
    open_header,
    rewrap,
    rewrap_all,
    weakness,
    wrapped_by,
)
from esper.checkpoint.file_ref import FileRef, load_tensors, open_tensors
from esper.checkpoint.manifest import MANIFEST_NAME, PURPOSE
from esper.checkpoint.references import AttachmentRef, CheckpointRef
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.trainer_state import TREE_FILE, capture_trainer, load_trainer, restore_trainer
from esper.errors import CheckpointCorrupt
from tests.checkpoint.runs import OTHER_RING, RING, Training, content, flip, open_store

SEALED = CHUNK_BYTES + 16
NAME = "decision.pb"


def committed(run: Path, secret: bytes, name: str = "mask-01", ring: KeyRing = RING) -> AttachmentRef:
    """A decision beside a checkpoint."""
    with CheckpointStore(run, keyring=ring, model="net", clock=lambda: 1.5) as store:
        base = store.latest() or store.save(1, 1, content(1))
        return store.commit_attachment(base, name, {NAME: secret})


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES + 5])
def test_what_was_hidden_comes_back_and_is_nowhere_in_the_file(tmp_path: Path, size: int) -> None:
    secret = os.urandom(size)
    file = committed(tmp_path, secret).file(NAME)
    assert file.problem() is None
    assert file.read_bytes() == secret
    raw = file.path.read_bytes()
    assert len(raw) == file.size == HEADER_BYTES + size + 16 * (size // CHUNK_BYTES + 1)
    assert size < 16 or secret[:16] not in raw
    assert file.key not in repr(file)


def damage(path: Path, slot: str, junk: bytes = b"?") -> None:
    """Writes over the end of one copy of a file's key."""
    raw = bytearray(path.read_bytes())
    stop = SLOTS[slot].indices(HEADER_BYTES)[1]
    raw[stop - len(junk) : stop] = junk
    path.write_bytes(raw)


def cut(raw: bytes) -> bytes:
    return raw[:-SEALED]


def ended_on_a_chunk(raw: bytes) -> bytes:
    return raw[: HEADER_BYTES + SEALED]


def exchanged(raw: bytes) -> bytes:
    first, second = HEADER_BYTES + SEALED, HEADER_BYTES + 2 * SEALED
    return raw[:HEADER_BYTES] + raw[first:second] + raw[HEADER_BYTES:first] + raw[second:]


def twice(raw: bytes) -> bytes:
    return raw[: HEADER_BYTES + SEALED] + raw[HEADER_BYTES:]


def altered(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


@pytest.mark.parametrize("attack", [cut, ended_on_a_chunk, exchanged, twice, altered])
def test_chunks_that_were_cut_moved_or_altered_do_not_open_even_without_the_digest(
    tmp_path: Path, attack: Callable[[bytes], bytes]
) -> None:
    file = committed(tmp_path, os.urandom(2 * CHUNK_BYTES + 5)).file(NAME)
    raw = attack(file.path.read_bytes())
    file.path.write_bytes(raw)
    with pytest.raises(CheckpointCorrupt, match=r"instead of|other bytes"):
        file.read_bytes()
    with file.path.open("rb", buffering=0) as opened:
        opened.seek(HEADER_BYTES)
        with pytest.raises(CheckpointCorrupt, match=r"does not open|cut off"):
            open_header(file.path, RING).decrypt(opened, len(raw))


def test_a_file_or_its_header_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    one, other = committed(tmp_path, b"one"), committed(tmp_path, b"two", "mask-02")
    path, ours, theirs = one.path / NAME, (one.path / NAME).read_bytes(), (other.path / NAME).read_bytes()
    path.write_bytes(theirs)
    with pytest.raises(CheckpointCorrupt, match="other bytes"):
        one.file(NAME).read_bytes()
    path.write_bytes(theirs[:HEADER_BYTES] + ours[HEADER_BYTES:])
    with pytest.raises(CheckpointCorrupt):
        one.file(NAME).read_bytes()
    path.write_bytes(ours[:16] + theirs[16:32] + ours[32:])
    with pytest.raises(CheckpointCorrupt, match="header was altered"):
        one.file(NAME).read_bytes()


def test_a_damaged_slot_costs_nothing_and_two_cost_the_file(tmp_path: Path) -> None:
    attached = committed(tmp_path, b"secret")
    damage(attached.path / NAME, "first")
    assert attached.file(NAME).read_bytes() == b"secret"
    damage(attached.path / NAME, "second")
    assert "header was altered" in (attached.file(NAME).problem() or "")
    flip(attached.path / NAME, 3)
    assert "what is there now is not" in (attached.file(NAME).problem() or "")


@pytest.mark.parametrize("slot", SLOTS)
def test_a_damaged_slot_is_told_by_name_and_written_again_by_the_same_key(tmp_path: Path, slot: str) -> None:
    attached = committed(tmp_path, b"secret")
    path = attached.path / NAME
    whole = path.read_bytes()
    assert not any(attached.weaknesses)
    damage(path, slot)
    (told,) = attached.weaknesses
    assert told.startswith(f"{NAME}: the {slot} of the two copies of its key does not open (")
    assert attached.file(NAME).problem() is None
    done = rewrap_all(attached.path.iterdir(), RING)
    assert (done.count, done.healed, done.failed) == (1, (f"{path}: {told.removeprefix(f'{NAME}: ')}",), ())
    assert weakness(path, RING) == ""
    assert path.read_bytes()[HEADER_BYTES:] == whole[HEADER_BYTES:]
    assert rewrap_all(attached.path.iterdir(), RING).count == 0


def test_every_bit_of_a_slot_matters(tmp_path: Path) -> None:
    path = committed(tmp_path, b"secret").path / NAME
    first = SLOTS["first"]
    for position in range(first.start, first.stop):
        flip(path, position, position % 8)
        assert weakness(path, RING).startswith("the first")
        flip(path, position, position % 8)
    assert weakness(path, RING) == ""


def test_without_the_key_a_sentence_says_which_and_that_it_may_be_lost(tmp_path: Path) -> None:
    path = committed(tmp_path, b"secret").path / NAME
    with pytest.raises(CheckpointCorrupt, match=r"which is not in this key ring.*lost for good"):
        open_header(path, OTHER_RING)
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id).disable(RING.primary.id)
    with pytest.raises(CheckpointCorrupt, match="is disabled"):
        open_header(path, rotated)
    with pytest.raises(CheckpointCorrupt, match="lost for good"):
        open_header(path, rotated.destroy(RING.primary.id))


def test_a_wrap_by_a_new_key_touches_the_header_only_and_the_old_key_may_go(tmp_path: Path) -> None:
    attached = committed(tmp_path, os.urandom(99))
    file, secret = attached.path / NAME, attached.file(NAME).read_bytes()
    body = file.read_bytes()[HEADER_BYTES:]
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    assert rewrap(file, rotated)
    assert not rewrap(file, rotated)
    assert file.read_bytes()[HEADER_BYTES:] == body
    assert wrapped_by(file) == {rotated.primary.id}
    assert attached.file(NAME).problem() is not None  # by the old ring
    known = FileRef(file, attached.file(NAME).size, attached.manifest.files[NAME].blake3)
    alone = rotated.disable(RING.primary.id).destroy(RING.primary.id)
    opened = FileRef(file, known.size, known.blake3, open_header(file, alone).text())
    assert opened.read_bytes() == secret


@pytest.mark.parametrize("slot", SLOTS)
def test_a_power_cut_while_one_slot_is_written_loses_nothing(tmp_path: Path, slot: str) -> None:
    path = committed(tmp_path, b"secret").path / NAME
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    damage(path, slot, bytes(70))
    assert rewrap(path, rotated)
    assert wrapped_by(path) == {rotated.primary.id}
    open_header(path, rotated)


def test_weights_are_hidden_on_request_and_workers_need_no_ring_for_them(tmp_path: Path) -> None:
    with CheckpointStore(tmp_path, keyring=RING, model="net", encrypt_weights=True) as store:
        saved = store.save(1, 1, content(1))
        assert store.verify(saved).is_ok
    assert store.catalog.latest() == saved
    file = saved.file("model.safetensors")
    travelled = FileRef(file.path, file.size, file.blake3, file.key)
    assert torch.equal(load_tensors(travelled, ["w"])["w"], torch.full((5, 3), 1.0))
    tensors = open_tensors(travelled)
    tensors.let_go(tensors["w"])
    assert torch.equal(tensors["w"], torch.full((5, 3), 1.0))
    assert not saved.file("note.bin").key
    with open_store(tmp_path) as store:
        assert not store.save(2, 2, content(2)).file("model.safetensors").key


def test_of_a_hidden_file_only_the_chunks_of_the_tensors_that_are_asked_for_are_decrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    decrypt = FileKey.decrypt_chunk

    def watched(key: FileKey, number: int, *rest: memoryview, is_last: bool) -> None:
        opened.append(number)
        decrypt(key, number, *rest, is_last=is_last)

    monkeypatch.setattr(FileKey, "decrypt_chunk", watched)
    tensors = {"a": torch.arange(CHUNK_BYTES), "b": torch.arange(9), "none": torch.zeros(0)}  # "a": 8 chunks
    with open_store(tmp_path, encrypt_weights=True) as store:
        file = store.save(1, 1, {"model.safetensors": tensors}).file("model.safetensors")
    assert torch.equal(load_tensors(file, ["b"])["b"], tensors["b"])
    assert opened == [0, 8]
    found = load_tensors(file, tensors)
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    flip(file.path, HEADER_BYTES + 5 * SEALED)
    with pytest.raises(CheckpointCorrupt, match="has other bytes than were saved"):
        load_tensors(file, ["b"])


def written_before_encryption(checkpoint: CheckpointRef) -> None:
    """Puts a checkpoint as an Esper that encrypted nothing wrote it in the place of one of today."""
    raw = json.loads(RING.unseal(PURPOSE, (checkpoint.path / MANIFEST_NAME).read_bytes()))
    for name, file in checkpoint.files.items():
        plain = file.read_bytes()
        file.path.write_bytes(plain)
        raw["files"][name] = {"size": len(plain), "blake3": blake3.blake3(plain).hexdigest()}
    body = json.dumps(raw, sort_keys=True).encode()
    (checkpoint.path / MANIFEST_NAME).write_bytes(RING.seal(PURPOSE, body))


def test_a_run_from_before_encryption_is_read_resumed_and_goes_on_encrypted(tmp_path: Path) -> None:
    training = Training("Adam")
    training.step()
    with open_store(tmp_path) as store:
        trainer = capture_trainer(training.model, training.optimizer, step=1, epoch=1)
        old = store.save(1, 1, trainer.files())
        assert old.file(TREE_FILE).key
    written_before_encryption(old)
    assert b"is_encrypted" not in (old.path / MANIFEST_NAME).read_bytes()
    weights = {name: tensor.clone() for name, tensor in training.model.state_dict().items()}
    training.step()
    with open_store(tmp_path) as store:
        found = store.latest()
        assert found is not None
        assert not found.file(TREE_FILE).key
        assert rewrap_all(found.path.iterdir(), RING).failed == ()
        restore_trainer(load_trainer(found), training.model, training.optimizer)
        restored = training.model.state_dict()
        assert all(torch.equal(restored[name], tensor) for name, tensor in weights.items())
        trainer = capture_trainer(training.model, training.optimizer, step=2, epoch=2)
        saved = store.save(2, 2, trainer.files())
        assert saved.file(TREE_FILE).key
        assert store.verify(found).is_ok
        assert saved.file(TREE_FILE).read_bytes()
