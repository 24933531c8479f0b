"""The command line on real run directories; what needs a shell runs in a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from esper.anatomy.units import inspect
from esper.checkpoint import CheckpointStore, open_key_ring
from esper.cli.main import app, main
from esper.leyline import encode
from esper.runs.network import ANATOMY_FILE
from tests.cli.models import small

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def esper(*words: str) -> Outcome:
    """Runs a command in this process; it always ends by an exit code."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(words)
    return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def typed(*words: str, answer: str = "") -> Outcome:
    """Runs a command in a process of its own, as a shell does, and answers its question."""
    command = [sys.executable, "-m", "esper", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, input=answer, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with the checkpoints of steps 100, 200 and 300, and a mask beside the second."""
    run = tmp_path / "first"
    anatomy = json.dumps(encode(inspect(*small()))).encode()
    with CheckpointStore(run, keyring=open_key_ring(run, create=True), model="small") as store:
        for step in (100, 200, 300):
            weights = {"weight": torch.full((4, 4), float(step))}
            saved = store.save(step, step // 100, {"model.safetensors": weights, ANATOMY_FILE: anatomy})
            if step == 200:
                store.commit_attachment(saved, "mask-01", {"masks.json": b"[1]"})
    return run


def flip_a_byte(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_inspect_shows_what_can_be_removed_from_a_model_of_the_user() -> None:
    outcome = esper("inspect", "tests.cli.models:small")
    assert outcome.returncode == 0, outcome.stderr
    assert "8 removable units in 1 group," in outcome.stdout
    assert "reaches an output of the network" in outcome.stdout


def test_inspect_as_json_is_one_document_with_every_member() -> None:
    document = json.loads(esper("inspect", "tests.cli.models:small", "--json").stdout)
    group = document["groups"][0]
    assert (document["units"], group["width"], group["kind"]) == (8, 8, "channel")
    assert {"tensor": "2.weight", "axis": 1, "role": "consumer"} in group["members"]
    assert 0 < group["flops_fraction"] <= 1


def test_inspect_shows_every_layer_with_what_it_makes_and_reads() -> None:
    document = json.loads(esper("inspect", "tests.cli.models:small", "--json").stdout)
    assert [layer["name"] for layer in document["layers"]] == ["0", "2"]
    assert document["layers"][1]["reads"] == [0]
    assert "8 channels of 0" in esper("inspect", "tests.cli.models:small").stdout


def test_inspect_draws_the_network(tmp_path: Path, run: Path) -> None:
    picture = tmp_path / "net.svg"
    assert esper("inspect", "tests.cli.models:small", "--svg", str(picture)).returncode == 0
    assert picture.read_text().startswith("<svg")
    without_graph = esper("inspect", str(run), "--svg", str(tmp_path / "none.svg"))
    assert without_graph.returncode == 2
    assert "no graph" in " ".join(without_graph.stderr.split())
    assert not (tmp_path / "none.svg").exists()


def test_inspect_reads_the_anatomy_that_a_checkpoint_stored(run: Path) -> None:
    of_run = json.loads(esper("inspect", str(run), "--json").stdout)
    of_checkpoint = json.loads(esper("inspect", str(run / "checkpoints" / "step-000000100"), "--json").stdout)
    of_model = json.loads(esper("inspect", "tests.cli.models:small", "--json").stdout)
    assert of_run == of_checkpoint == {**of_model, "layers": []}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["inspect", "no-such-thing"],
            "there is no such directory, and it is not of the form module:function",
        ),
        (["inspect", "no_such_module:f"], "cannot be imported: No module named 'no_such_module'"),
        (["inspect", "tests.cli.models:missing"], "has nothing to call by the name 'missing'"),
        (["inspect", "tests.cli.models:nothing"], "returned NoneType; expected (model, sample)"),
        (["inspect", "tests.cli.models:untraceable"], "torch.export cannot follow"),
        (["checkpoints", "no-such-run"], "There is no run directory at no-such-run"),
        (["verify", "docs"], "docs is no run directory: it has no checkpoints/"),
        (["config", "no-such-file.toml"], "no-such-file.toml cannot be read"),
        (["demo", "--grow", "--flops", "0.5"], "--flops belongs to the demo of pruning"),
    ],
)
def test_bad_input_is_told_in_one_paragraph_with_exit_code_two(words: list[str], said: str) -> None:
    outcome = esper(*words)
    assert outcome.returncode == 2
    assert outcome.stdout == ""
    assert "\nesper: " in f"\n{outcome.stderr}"  # torch may have said something before
    assert "Traceback" not in outcome.stderr
    assert said in " ".join(outcome.stderr.split())


def test_a_module_that_lacks_what_it_imports_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_library")
    with chdir(tmp_path):
        said = " ".join(esper("inspect", "needs_more:f").stderr.split())
    assert said.endswith(
        "The module was found, but it imports 'no_such_library', which is not installed here."
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f():\n    raise RuntimeError('a bug')", "RuntimeError: a bug (line 2 of "),
        ("def f():\n    open('/no/such/file')", "'/no/such/file' (line 2 of "),
        ("def f(:", "SyntaxError: invalid syntax (faulty.py, line 1) (line 1 of "),
        ("from torch import no_such_name", "ImportError: cannot import name 'no_such_name' from 'torch'"),
        ("def f(width): ...", "faulty:f(width) is called without arguments: missing a required argument"),
    ],
    ids=["raises", "no-file", "syntax", "import", "arguments"],
)
def test_an_error_of_the_users_own_code_is_one_paragraph_with_its_line(
    source: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "faulty.py").write_text(source)
    sys.modules.pop("faulty", None)
    with chdir(tmp_path):
        outcome = esper("inspect", "faulty:f")
    assert outcome.returncode == 2
    assert "Traceback" not in outcome.stderr
    assert said in " ".join(outcome.stderr.split())


def test_debug_shows_the_traceback_of_an_error() -> None:
    outcome = typed("inspect", "no-such-thing", "--debug")
    assert "Traceback" in outcome.stderr
    assert "ConfigError" in outcome.stderr
    assert "esper: Nothing can be inspected at 'no-such-thing'" in outcome.stderr
    assert outcome.returncode == 2  # as without it


def test_every_command_takes_json() -> None:
    commands = dict(walked(typer.main.get_command(app)))
    assert {"verify", "keys export-public-state", "audit show"} <= commands.keys()
    assert [name for name, options in commands.items() if "--json" not in options] == []


def walked(command: Any, name: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every command below one, with its options."""
    for word, below in getattr(command, "commands", {}).items():
        yield from walked(below, f"{name} {word}".strip())
    if not hasattr(command, "commands"):
        yield name, {option for parameter in command.params for option in parameter.opts}


def test_checkpoints_lists_steps_epochs_and_masks(run: Path) -> None:
    rows = json.loads(esper("checkpoints", str(run), "--json").stdout)
    assert [(row["step"], row["epoch"], row["attachments"]) for row in rows] == [
        (100, 1, []),
        (200, 2, ["mask-01"]),
        (300, 3, []),
    ]
    assert all(row["size_bytes"] > 0 and not row["problems"] for row in rows)
    assert "mask-01" in esper("checkpoints", str(run)).stdout


def test_verify_finds_every_checkpoint_intact(run: Path) -> None:
    outcome = esper("verify", str(run))
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("intact") == 3


@pytest.mark.parametrize("name", ["model.safetensors", "MANIFEST.json", "mask-01/masks.json"])
def test_verify_finds_one_flipped_byte_and_says_so_by_its_exit_code(run: Path, name: str) -> None:
    flip_a_byte(run / "checkpoints" / "step-000000200" / name)
    outcome = esper("verify", str(run), "--json")
    assert outcome.returncode == 1
    damaged = [row["name"] for row in json.loads(outcome.stdout) if row["problems"]]
    assert damaged == ["step-000000200"]


def test_a_run_without_checkpoints_does_not_verify(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, keyring=open_key_ring(tmp_path, create=True)).close()
    outcome = esper("verify", str(tmp_path))
    assert outcome.returncode == 2
    assert "nothing to verify" in " ".join(outcome.stderr.split())
    assert "no checkpoints yet" in " ".join(esper("checkpoints", str(tmp_path)).stdout.split())


def test_a_damaged_manifest_is_listed_with_the_reason(run: Path) -> None:
    flip_a_byte(run / "checkpoints" / "step-000000300" / "MANIFEST.json")
    rows = json.loads(esper("checkpoints", str(run), "--json").stdout)
    assert [(row["name"], bool(row["problems"])) for row in rows][-1] == ("step-000000300", True)


def test_a_directory_that_is_no_run_says_what_to_name_instead(run: Path, tmp_path: Path) -> None:
    runs = run.parent
    for place, instead in (
        (tmp_path / "empty", "Name the run_dir that was given to esper.attach."),
        (run / "checkpoints", f"name {run}"),
        (run / "checkpoints" / "step-000000100", f"name {run}"),
        (runs, f"name {run}"),
    ):
        place.mkdir(exist_ok=True)
        outcome = esper("verify", str(place))
        assert outcome.returncode == 2
        said = "".join(outcome.stderr.split())
        assert "".join(f"{place} is no run directory: it has no checkpoints/.".split()) in said
        assert "".join(instead.split()) in said


def steps(run: Path) -> list[int]:
    return [row["step"] for row in json.loads(esper("checkpoints", str(run), "--json").stdout)]


def test_rollback_makes_an_earlier_step_the_newest_once_it_is_confirmed(run: Path) -> None:
    outcome = typed("rollback", str(run), "--to", "200", answer="y\n")
    assert outcome.returncode == 0, outcome.stderr
    assert "step-000000300" in outcome.stderr
    assert "now ends at step 200, epoch 2" in outcome.stdout
    assert steps(run) == [100, 200]


def test_rollback_deletes_nothing_when_the_answer_is_no(run: Path) -> None:
    assert typed("rollback", str(run), "--to", "200", answer="n\n").returncode == 1
    assert steps(run) == [100, 200, 300]


def test_rollback_as_json_asks_nobody_and_wants_yes(run: Path) -> None:
    refused = esper("rollback", str(run), "--to", "100", "--json")
    assert (refused.returncode, steps(run)) == (2, [100, 200, 300])
    flip_a_byte(run / "checkpoints" / "step-000000300" / "MANIFEST.json")
    done = json.loads(esper("rollback", str(run), "--to", "100", "--json", "--yes").stdout)
    (aside,) = (run / "checkpoints").glob(".aside-step-000000300-*")
    assert done == {"step": 100, "epoch": 1, "deleted": ["step-000000200"], "aside": [str(aside)]}
    assert steps(run) == [100, None]


def test_rollback_of_a_finished_run_says_that_it_is_not_finished_any_more(run: Path) -> None:
    (run / "report.json").write_text("{}")
    told = " ".join(esper("rollback", str(run), "--to", "200", "--yes").stdout.split())
    assert "not finished any more" in told
    assert (run / "report-until-step-000000300.json").is_file()


def test_rollback_to_a_damaged_checkpoint_is_refused_and_changes_nothing(run: Path) -> None:
    flip_a_byte(run / "checkpoints" / "step-000000100" / "model.safetensors")
    outcome = esper("rollback", str(run), "--to", "100", "--yes")
    assert outcome.returncode == 2
    assert "is damaged" in " ".join(outcome.stderr.split())
    assert steps(run) == [100, 200, 300]


def test_rollback_to_a_step_that_was_never_saved_names_the_steps_there_are(run: Path) -> None:
    outcome = esper("rollback", str(run), "--to", "150", "--yes")
    assert outcome.returncode == 2
    assert "100, 200, 300" in " ".join(outcome.stderr.split())


def test_rollback_is_refused_while_the_run_has_a_writer(run: Path) -> None:
    with CheckpointStore(run, keyring=open_key_ring(run)):
        outcome = esper("rollback", str(run), "--to", "100", "--yes")
    assert outcome.returncode == 2
    assert steps(run) == [100, 200, 300]


def test_the_version_is_the_one_of_the_package() -> None:
    from esper import __version__

    assert typed("--version").stdout == f"esper {__version__}\n"


def test_config_lists_every_setting_with_its_meaning() -> None:
    rows = json.loads(esper("config", "--explain", "--json").stdout)
    assert rows
    assert [row["key"] for row in rows if not row["meaning"]] == []
    shown = esper("config", "--explain").stdout
    assert all(row["key"].split(".")[-1] in shown for row in rows)


def test_config_shows_what_a_file_sets_and_refuses_what_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "esper.toml"
    file.write_text("[importance]\nmomentum = 0.9\n")
    rows = {row["key"]: row for row in json.loads(esper("config", str(file), "--json").stdout)}
    assert (rows["importance.momentum"]["value"], rows["importance.momentum"]["source"]) == (0.9, str(file))
    assert rows["importance.stride"]["source"] == "default"
    file.write_text("[importance]\nmomentun = 0.9\n")
    outcome = esper("config", str(file))
    assert outcome.returncode == 2
    assert "importance.momentun" in outcome.stderr
