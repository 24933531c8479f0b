"""Settings explained from their own class."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from esper.cli.explain import SettingRow, setting_rows
from esper.settings import Fraction, PositiveCount, Section


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


def rows(settings: Whole | None = None) -> dict[str, SettingRow]:
    return {row.key: row for row in setting_rows(settings or Whole(), "esper.toml")}


def test_every_setting_has_its_dotted_key_type_default_and_meaning() -> None:
    assert rows()["pruning.mode"] == SettingRow(
        "pruning.mode", "safe | fast", "safe", "safe", "default", "How bold to be."
    )
    assert list(rows()) == [
        "limit",
        "pruning.every",
        "pruning.mode",
        "pruning.target",
        "pruning.target.flops",
    ]


def test_ranges_are_part_of_the_type() -> None:
    assert rows()["pruning.target.flops"].type == "float >= 0, <= 1"
    assert rows()["pruning.every"].type == "int >= 1"
    assert rows()["limit"].type == "float or nothing"


def test_the_default_that_counts_is_the_one_of_the_enclosing_section() -> None:
    assert (rows()["pruning.every"].default, rows()["pruning.every"].source) == (3, "default")


def test_what_was_set_names_its_source_and_everything_else_is_a_default() -> None:
    found = rows(Whole(pruning=Pruning(target=Target(flops=0.25))))
    assert (found["pruning.target.flops"].value, found["pruning.target.flops"].source) == (0.25, "esper.toml")
    assert (found["pruning.target"].value, found["pruning.target"].source) == ("on", "esper.toml")
    assert (found["pruning.every"].value, found["pruning.every"].source) == (1, "default")
    assert (found["limit"].value, found["limit"].source) == (None, "default")
