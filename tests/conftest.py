"""One torch thread in this process and in every process that a test starts, and hypothesis without clocks."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("esper", deadline=None, derandomize=True)
settings.load_profile("esper")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch  # after the variable, which it reads once

    torch.set_num_threads(1)
