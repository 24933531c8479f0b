"""The checkpoint store: what is acknowledged is durable, what is loaded is verified, what resumes is exact.

Saving and resuming:

    ring = open_key_ring(run_dir, create=True)
    store = CheckpointStore(run_dir, keyring=ring, model="resnet8")
    saver = BackgroundSaver(store)
    saver.submit(step, epoch, capture_trainer(model, optimizer, step=step, epoch=epoch).files())
    restore_trainer(load_trainer(store.latest()), model, optimizer)
"""

from esper.checkpoint.background import BackgroundSaver, Stall
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.codec import Encoded, decode, encode, from_json, to_json
from esper.checkpoint.content import FileContent
from esper.checkpoint.crypto import Key, KeyRing, KeyState
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.identity import read_identity
from esper.checkpoint.manifest import FileEntry, Manifest, RunIdentity
from esper.checkpoint.mapped import MappedTensors
from esper.checkpoint.references import (
    AttachmentRef,
    Attachments,
    CheckpointRef,
    FileRef,
    Listing,
    Rejection,
    Search,
    VerifyReport,
    load_tensors,
    open_tensors,
)
from esper.checkpoint.retention import BASELINE, RetentionOutcome
from esper.checkpoint.ring_file import open_key_ring, read_key_ring, replace_key_ring, ring_path
from esper.checkpoint.rng import capture_rng, restore_rng
from esper.checkpoint.settings import CheckpointSettings
from esper.checkpoint.storage import PosixStorage, Storage
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.trainer_state import TrainerState, capture_trainer, load_trainer, restore_trainer
from esper.checkpoint.withdrawal import Withdrawal, withdraw, withdrawals

__all__ = [
    "BASELINE",
    "AttachmentRef",
    "Attachments",
    "BackgroundSaver",
    "CheckpointCatalog",
    "CheckpointRef",
    "CheckpointSettings",
    "CheckpointStore",
    "Encoded",
    "FaultyStorage",
    "FileContent",
    "FileEntry",
    "FileRef",
    "Key",
    "KeyRing",
    "KeyState",
    "Listing",
    "Manifest",
    "MappedTensors",
    "PosixStorage",
    "Rejection",
    "RetentionOutcome",
    "RunIdentity",
    "Search",
    "Stall",
    "Storage",
    "TrainerState",
    "VerifyReport",
    "Withdrawal",
    "capture_rng",
    "capture_trainer",
    "decode",
    "encode",
    "from_json",
    "load_tensors",
    "load_trainer",
    "open_key_ring",
    "open_tensors",
    "read_identity",
    "read_key_ring",
    "replace_key_ring",
    "restore_rng",
    "restore_trainer",
    "ring_path",
    "to_json",
    "withdraw",
    "withdrawals",
]
