"""What a callback is asked for is refused where no framework's loop can do it."""

from __future__ import annotations

from typing import Any

import pytest

from esper.errors import ConfigError
from esper.integrations.wish import settings


@pytest.mark.parametrize(
    ("target", "config", "words"),
    [
        (
            0.3,
            {"strategy": {"policy": "periodic"}},
            "strategy.policy='periodic' needs a loop that takes its loss",
        ),
        (None, {"strategy": {"policy": "plateau"}}, "strategy.policy='plateau' needs a loop"),
        (None, {}, "Nothing was asked for"),
        (0.3, {"pruning": {"recovery": {"distill": True}}}, "pruning.recovery.distill needs a loop"),
    ],
)
def test_what_a_framework_cannot_do_is_refused(target: float | None, config: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings(target, config)


def test_a_target_is_written_into_the_settings() -> None:
    assert settings(0.3, {"strategy": {"max_tries": 3}}).pruning.target is not None
