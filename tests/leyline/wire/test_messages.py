from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from esper.errors import ContractError
from esper.leyline import SeedLifecycleGate, SeedLifecycleStage
from esper.leyline.wire import generate, messages, parsed
from tests.leyline.wire.samples import KINDS, older, sample

GOLDEN = Path(__file__).with_name("golden.json")


def test_the_generated_code_is_what_the_compiler_makes_of_the_contracts_now(tmp_path: Path) -> None:
    for path in generate.generate(tmp_path):
        assert path.read_bytes() == (generate.FOLDER / path.name).read_bytes(), "run the generator again"


def test_every_message_has_the_bytes_that_it_always_had() -> None:
    """A changed line means that what others have written would be misread: add fields instead."""
    now = {name: sample(kind).SerializeToString(deterministic=True).hex() for name, kind in KINDS.items()}
    assert now == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", KINDS)
def test_what_an_older_reader_does_not_know_survives_it(name: str) -> None:
    message = sample(KINDS[name])
    by_older = older(name).FromString(message.SerializeToString())
    first = message.DESCRIPTOR.fields[0]
    if first.message_type is None:
        assert getattr(by_older, first.name) == getattr(message, first.name)
    assert KINDS[name].FromString(by_older.SerializeToString()) == message


@pytest.mark.parametrize("name", KINDS)
def test_a_newer_reader_reads_what_an_older_one_has_written(name: str) -> None:
    kind = KINDS[name]
    written = sample(older(name), depth=0)
    read = kind.FromString(written.SerializeToString())
    later = [field for field in kind.DESCRIPTOR.fields[1:] if field.has_presence]
    assert not [field.name for field in later if read.HasField(field.name)]


def test_a_number_of_an_enum_that_is_not_known_yet_is_kept() -> None:
    seed = messages.SeedState.FromString(bytes([2 << 3, 99]))
    assert seed.stage == 99
    assert seed.SerializeToString() == bytes([2 << 3, 99])


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (SeedLifecycleStage, messages.SeedLifecycleStage, "SEED_STAGE_"),
        (SeedLifecycleGate, messages.SeedLifecycleGate, "SEED_GATE_"),
    ],
)
def test_stages_and_gates_have_one_number_each(ours: Any, theirs: Any, prefix: str) -> None:
    assert {f"{prefix}{word.name}": word.value for word in ours} == dict(theirs.items())


def test_zero_of_every_enum_says_that_nobody_knows() -> None:
    for enum in messages.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values[0].number == 0
        assert enum.values[0].name.endswith("_UNKNOWN")


def test_what_is_no_message_is_refused_with_its_size() -> None:
    with pytest.raises(ContractError, match="3 bytes are no SeedState"):
        parsed(messages.SeedState, b"\xff\xff\xff")


@pytest.mark.parametrize("version", [0, 2])
def test_a_version_that_would_be_misread_is_refused(version: int) -> None:
    raw = messages.SystemStatePacket(version=version).SerializeToString()
    with pytest.raises(ContractError, match=f"version {version}; this Esper reads version 1"):
        parsed(messages.SystemStatePacket, raw)


def test_the_state_of_a_run_with_one_seed_is_small() -> None:
    packet = messages.SystemStatePacket(
        version=1,
        run="0123456789abcdef",
        at_seconds=1.8e9,
        epoch=120,
        step=480_000,
        metrics={"accuracy": 0.9, "loss": 0.3},
        seeds=[
            messages.SeedState(
                slot="backbone.layer3.1",
                stage=messages.SEED_STAGE_SHADOWING,
                blueprint="bottleneck",
                generation=2,
                alpha=0.5,
                evidence="e" * 80,
            )
        ],
        units=4096,
        masked_units=512,
        removed_fraction=0.4,
        cost="flops",
        parameters=25_000_000,
    )
    assert len(packet.SerializeToString()) <= 300
