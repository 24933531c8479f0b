"""What `esper doctor` finds out, and what it advises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from esper.cli.doctor import Finding, extras, findings
from esper.cli.main import main


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings(tmp_path_factory.mktemp("runs") / "first" / "run")}


def test_everything_that_esper_needs_works_where_its_tests_run(found: dict[str, Finding]) -> None:
    needed = {"software", "processor", "tracing", "workers", "disk", "key ring"}
    assert {what for what in needed if found[what].state != "works"} == set()
    assert "traced in" in found["tracing"].text
    assert "MB/s" in found["disk"].text


def test_an_extra_is_here_whole_or_named_with_the_command_that_brings_it(found: dict[str, Finding]) -> None:
    named = {what: finding for what, finding in found.items() if what.startswith("extra ")}
    assert {"extra demo", "extra onnx", "extra transformers"} <= set(named)
    for what, finding in named.items():
        here = finding.state == "works"
        assert finding.advice == ("" if here else f'pip install "esper-torch[{what.removeprefix("extra ")}]"')
    assert named["extra onnx"].text.startswith("onnx ")  # the tests need it, so it is here
    assert not {"extra dev", "extra bench"} & set(found)


def test_an_extra_that_is_absent_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "esper_torch-1.0.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", "Name: esper-torch", "Version: 1.0", "Provides-Extra: web"]
    lines += ['Requires-Dist: no-such-library>=3; extra == "web"', 'Requires-Dist: numpy; extra == "web"']
    (folder / "METADATA").write_text("\n".join([*lines, "Requires-Dist: numpy>=1"]) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(extras()) == [
        Finding("extra web", "missing", "without no-such-library", 'pip install "esper-torch[web]"')
    ]


@pytest.mark.parametrize(
    ("place", "ring", "word"),
    [("/proc/runs", None, "Put run directories elsewhere"), (".", "/nowhere/ring.json", "no file")],
)
def test_what_fails_is_said_with_the_way_out_and_by_the_exit_code(
    place: str,
    ring: str | None,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if ring:
        monkeypatch.setenv("ESPER_KEY_RING", ring)
    with pytest.raises(SystemExit) as ended:
        main(["doctor", place, "--json"])
    assert ended.value.code == 1
    rows = json.loads(capsys.readouterr().out)
    assert [word in row["text"] for row in rows if row["state"] == "fails"] == [True]
