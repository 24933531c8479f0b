"""The checkpoint store: what is acknowledged is durable, what is loaded is verified, what resumes is exact.

Saving and resuming:

    ring = open_key_ring(run_dir, create=True)
    store = CheckpointStore(run_dir, keyring=ring, model="resnet8")
    saver = BackgroundSaver(store)
    saver.submit(step, epoch, capture_trainer(model, optimizer, step=step, epoch=epoch).files())
    restore_trainer(load_trainer(store.latest()), model, optimizer)
"""

from esper.checkpoint.background import BackgroundSaver
from esper.checkpoint.bundle import SHARED, bundled, write_bundle
from esper.checkpoint.catalog import CheckpointCatalog, holds_checkpoints
from esper.checkpoint.codec import LEAVES, decode, encode, from_json, to_json
from esper.checkpoint.content import FileContent
from esper.checkpoint.crypto import KeyRing, sealed_by
from esper.checkpoint.encrypted import HEADER_BYTES, SLOTS, FileKey
from esper.checkpoint.explain import explained
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.file_ref import FileRef, load_tensors, open_tensors
from esper.checkpoint.identity import require_own_ring
from esper.checkpoint.layout import KERNELS
from esper.checkpoint.lock import WriterLock
from esper.checkpoint.mapped import MappedTensors
from esper.checkpoint.reading import read_regular
from esper.checkpoint.references import AttachmentRef, CheckpointRef, Rejection
from esper.checkpoint.rekeying import Rekeyed, due, missing_keys, rekey, resting_on
from esper.checkpoint.retention import BASELINE
from esper.checkpoint.ring_file import key_ring_to_change, open_key_ring, replace_key_ring
from esper.checkpoint.rng import Generator, capture_rng, drawn_apart, restore_rng
from esper.checkpoint.sealed import SealedFolder
from esper.checkpoint.settings import CheckpointSettings
from esper.checkpoint.sharded import load_sharded, save_sharded
from esper.checkpoint.state import Entry, Memory, Record
from esper.checkpoint.storage import PosixStorage, Storage
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.tensor_file import file_pieces, map_tensors, tensor_bytes
from esper.checkpoint.trainer_parts import (
    HasStateDict,
    OptimizerState,
    Randomness,
    Scaler,
    Schedulers,
    Weights,
    misfits,
)
from esper.checkpoint.trainer_state import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    TREE_FILE,
    TrainerState,
    capture_trainer,
    load_trainer,
    restore_trainer,
)
from esper.checkpoint.withdrawal import withdraw

__all__ = [
    "BASELINE",
    "HEADER_BYTES",
    "KERNELS",
    "LEAVES",
    "MODEL_FILE",
    "OPTIMIZER_FILE",
    "SHARED",
    "SLOTS",
    "TREE_FILE",
    "AttachmentRef",
    "BackgroundSaver",
    "CheckpointCatalog",
    "CheckpointRef",
    "CheckpointSettings",
    "CheckpointStore",
    "Entry",
    "FaultyStorage",
    "FileContent",
    "FileKey",
    "FileRef",
    "Generator",
    "HasStateDict",
    "KeyRing",
    "MappedTensors",
    "Memory",
    "OptimizerState",
    "PosixStorage",
    "Randomness",
    "Record",
    "Rejection",
    "Rekeyed",
    "Scaler",
    "Schedulers",
    "SealedFolder",
    "Storage",
    "TrainerState",
    "Weights",
    "WriterLock",
    "bundled",
    "capture_rng",
    "capture_trainer",
    "decode",
    "drawn_apart",
    "due",
    "encode",
    "explained",
    "file_pieces",
    "from_json",
    "holds_checkpoints",
    "key_ring_to_change",
    "load_sharded",
    "load_tensors",
    "load_trainer",
    "map_tensors",
    "misfits",
    "missing_keys",
    "open_key_ring",
    "open_tensors",
    "read_regular",
    "rekey",
    "replace_key_ring",
    "require_own_ring",
    "resting_on",
    "restore_rng",
    "restore_trainer",
    "save_sharded",
    "sealed_by",
    "tensor_bytes",
    "to_json",
    "withdraw",
    "write_bundle",
]
