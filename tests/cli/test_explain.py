"""Settings explained from their own class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from esper.cli.explain import SettingRow, setting_rows
from esper.config_types import Fraction, PositiveCount, Section
from esper.errors import ConfigError


class Target(Section):
    """Where to go."""

    flops: Fraction = 0.5
    """Share of the FLOPs that is left."""


class Pruning(Section):
    """How to get there."""

    every: PositiveCount = 1
    """Epochs between two decisions."""

    mode: Literal["safe", "fast"] = "safe"
    """How bold to be."""

    target: Target | None = None
    """Off until it is set."""


class Whole(Section):
    """Everything."""

    pruning: Pruning = Field(default=Pruning(every=3))
    """The pruning section."""

    limit: float | None = None
    """No limit if unset."""


def rows(file: Path | None = None) -> dict[str, SettingRow]:
    return {row.key: row for row in setting_rows(Whole, file)}


def test_every_setting_has_its_dotted_key_type_default_and_meaning() -> None:
    assert rows()["pruning.mode"] == SettingRow(
        "pruning.mode", "safe | fast", "safe", "safe", "default", "How bold to be."
    )
    assert list(rows()) == [
        "pruning.every",
        "pruning.mode",
        "pruning.target",
        "pruning.target.flops",
        "limit",
    ]


def test_ranges_are_part_of_the_type() -> None:
    assert rows()["pruning.target.flops"].type == "float >= 0, <= 1"
    assert rows()["pruning.every"].type == "int >= 1"
    assert rows()["limit"].type == "float or nothing"


def test_the_default_that_counts_is_the_one_of_the_enclosing_section() -> None:
    assert rows()["pruning.every"].default == 3


def test_a_file_shows_as_the_source_of_what_it_sets_and_of_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "esper.toml"
    file.write_text("[pruning.target]\nflops = 0.25\n")
    found = rows(file)
    assert (found["pruning.target.flops"].value, found["pruning.target.flops"].source) == (0.25, str(file))
    assert found["pruning.target"].value == "set"
    assert (found["pruning.every"].value, found["pruning.every"].source) == (3, "default")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[pruning]\nevry = 2\n", r"pruning\.evry: Extra inputs are not permitted"),
        ("[pruning]\nevery = 0\n", r"pruning\.every: .*greater than or equal to 1"),
        ("[pruning\n", "is not TOML"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_key_and_the_reason(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "esper.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        rows(file)
