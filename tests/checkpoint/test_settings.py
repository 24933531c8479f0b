"""The settings of the store."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from esper.checkpoint.settings import CheckpointSettings


def test_at_least_one_checkpoint_is_kept() -> None:
    assert CheckpointSettings().keep_last == 3
    with pytest.raises(ValidationError):
        CheckpointSettings(keep_last=0)
