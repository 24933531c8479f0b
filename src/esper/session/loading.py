"""Loading a finished network without its code."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from esper.anatomy.twin import refuse_pickle
from esper.checkpoint import CheckpointCatalog, open_key_ring
from esper.errors import CheckpointMissing
from esper.session.saving import NETWORK_FILE


def load(run_dir: str | Path) -> Callable[..., Any]:
    """The finished network of a run, called like the original one; no class of the user is needed.

    It computes as in eval mode. The archive is verified before it is read and holds nothing that needs
    pickle.

    Raises:
        CheckpointMissing: the run is not finished, or nothing in it verifies.
        CheckpointCorrupt: the archive is not what was saved.
    """
    run = Path(run_dir)
    catalog = CheckpointCatalog(run, open_key_ring(run))
    newest = catalog.search().found
    if newest is None or NETWORK_FILE not in newest.files:
        raise CheckpointMissing(
            f"{run} holds no finished network. Call session.finish(), or resume the run first."
        )
    data = newest.file(NETWORK_FILE).read_bytes()
    refuse_pickle(data)
    module = torch.export.load(io.BytesIO(data)).module()

    def call(*args: Any, **kwargs: Any) -> Any:
        return module(args, kwargs)

    return call
