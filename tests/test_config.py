"""One configuration for all parts: pruning is off until asked for, and a wrong key or value is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

import esper
from esper.errors import ConfigError


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_nothing_is_pruned_until_it_is_asked_for() -> None:
    assert not esper.Config().pruning.is_enabled
    assert esper.Config().validation.validation == "measure"


def test_a_file_gives_the_settings_that_python_gives(tmp_path: Path) -> None:
    file = written(tmp_path / "c.toml", "[pruning]\ntarget = { flops = 0.5 }\n[checkpoint]\nkeep_last = 7\n")
    expected = esper.Config(pruning={"target": {"flops": 0.5}}, checkpoint={"keep_last": 7})
    assert esper.Config.from_toml(file) == esper.Config.from_toml(str(file)) == expected


def test_a_mapping_is_as_good_and_what_it_gets_wrong_is_named() -> None:
    asked = {"pruning": {"target": {"flops": 0.5}}}
    assert esper.Config.of(asked) == esper.Config.of(esper.Config(**asked))
    with pytest.raises(ConfigError, match=r"config: pruning.target.flops: .*explain"):
        esper.Config.of({"pruning": {"target": {"flops": 1.5}}})
    with pytest.raises(ConfigError, match=r"config: .*dictionary"):
        esper.Config.of(0.5)  # type: ignore[arg-type]  # what the test is about
    with pytest.raises(ConfigError, match=r"config='my\.toml' is no mapping.*from_toml\('my\.toml'\)"):
        esper.Config.of("my.toml")  # type: ignore[arg-type]  # what the test is about


@pytest.mark.parametrize("target", [0.5, {"flops": 0.5}])
def test_a_target_goes_beside_what_is_set_already(target: float | dict[str, float]) -> None:
    given = esper.Config.of({"pruning": {"plan": {"round_to": 8}}, "checkpoint": {"keep_last": 7}})
    asked = {"pruning": {"plan": {"round_to": 8}, "target": {"flops": 0.5}}, "checkpoint": {"keep_last": 7}}
    assert given.aimed(target) == esper.Config.of(asked)
    assert given.aimed(target).aimed(0.5) == given.aimed(target)


def test_two_different_targets_are_refused() -> None:
    with pytest.raises(ConfigError, match="another one than pruning"):
        esper.Config.of({"pruning": {"target": {"flops": 0.5}}}).aimed({"parameters": 0.5})
    with pytest.raises(ConfigError, match="target"):
        esper.Config().aimed(1.5)


def test_a_configuration_survives_a_checkpoint() -> None:
    config = esper.Config.model_validate({"pruning": {"staged": True}, "importance": {"stride": 4}})
    assert esper.Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pruning]\ntypo = 1\n", "pruning.typo"),
        ("[pruning]\ntarget = { flops = 1.5 }\n", "pruning.target.flops"),
        ("[pruning]\nstaged = true\ntarget = { flops = 0.5 }\n", "exclude each other"),
        ("[pruning]\ntargt = { flops = 0.5 }\n", "pruning.targt: There is no such key; 'target' is near."),
        ("[pruning.schedule]\nstart_epochs = 1\n", "'start_epoch' is near."),
        ("[pruning]\ntarget = { flop = 0.5 }\n", "'flops' is near."),
        ("target = 0.5\n", "target: There is no such key; there is 'pruning.target'."),
        ("[analysis]\nqqq = 1\n", "analysis.qqq: There is no such key. "),
        ("[pruning]\ntarget = { flops = 50 }\n", "a share, so 50 % is 0.5."),
        ("[telemetry]\nbus = 'foo'\n", "telemetry.bus: 'foo' is no bus. A bus is a file"),
        ("[telemetry]\nbus = 'foo'\n", "redis://host:port/db. "),
        ("[pruning\n", "is not TOML"),
        ("[nonsense]\n", "nonsense"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        esper.Config.from_toml(written(tmp_path / "c.toml", text))
    assert told in str(refusal.value)
    assert "c.toml" in str(refusal.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml cannot be read"):
        esper.Config.from_toml(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary.toml is not TOML"):
        esper.Config.from_toml(tmp_path / "binary.toml")


def test_settings_cannot_be_changed_behind_a_session() -> None:
    with pytest.raises(ValidationError):
        esper.Config().checkpoint.keep_last = 1  # type: ignore[misc]  # what the test is about
