"""What a user can get wrong: each gets one paragraph, training goes on where it can, nothing is lost."""

from __future__ import annotations

import os
import signal
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import esper
from esper.errors import CheckpointError, ConfigError, EsperError, UntraceableError
from esper.session.session import Session
from tests.session.runs import Training, examples, settings, small_network
from tests.workers.processes import supervisors

TARGET = {"target": {"flops": 0.4}, "schedule": {"start_epoch": 1, "end_epoch": 5}}


def attach(run_dir: Path, model: nn.Module | None = None, **changes: Any) -> Session:
    model = small_network() if model is None else model
    inputs, targets = examples(16, 0)
    given: dict[str, Any] = {
        "loss": nn.CrossEntropyLoss(),
        "sample": (inputs, targets),
        "probe": [examples(192, 1)],
        "run_dir": run_dir,
        "config": settings(),
        "epochs": 6,
    }
    optimizer = changes.pop("optimizer", None) or torch.optim.AdamW(model.parameters(), 1e-2)
    return esper.attach(model, optimizer, **{**given, **changes})


@contextmanager
def attached(run_dir: Path, model: nn.Module | None = None, **changes: Any) -> Iterator[Session]:
    session = attach(run_dir, model, **changes)
    try:
        yield session
    finally:
        session.detach()


def refused(kind: type[Exception], run_dir: Path, **changes: Any) -> str:
    """What attaching says when it refuses: one paragraph."""
    with pytest.raises(kind) as refusal:
        attach(run_dir, **changes)
    text = str(refusal.value)
    assert "\n" not in text
    return text


def train(session: Session, count: int = 2) -> None:
    inputs, targets = examples(16, 2)
    for _ in range(count):
        session.optimizer.zero_grad()
        nn.functional.cross_entropy(session.model(inputs), targets).backward()
        session.optimizer.step()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum().item() > 0 else x


def test_a_network_that_cannot_be_traced_is_named_with_its_line(tmp_path: Path) -> None:
    told = refused(UntraceableError, tmp_path, model=Branching())
    assert "Branching.forward (line" in told
    assert not tmp_path.joinpath("checkpoints").exists()


def test_layers_that_are_made_by_their_first_batch_are_told_to_see_one(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    batch = torch.randn(4, 6), torch.tensor([0, 1, 0, 1])
    given: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "sample": batch, "run_dir": tmp_path / "run"}
    with pytest.raises(ConfigError, match=r"0\.weight has no shape yet.*model\(x\)"):
        esper.attach(model, torch.optim.SGD(model.parameters(), 0.1), **given)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_returns_a_vector_is_refused(tmp_path: Path) -> None:
    assert "scalar" in refused(ConfigError, tmp_path, loss=nn.CrossEntropyLoss(reduction="none"))


def test_a_sample_on_another_device_is_refused(tmp_path: Path) -> None:
    inputs, targets = examples(16, 0)
    told = refused(ConfigError, tmp_path, sample=(inputs.to("meta"), targets))
    assert "meta" in told
    assert "cpu" in told


def test_a_probe_that_is_too_small_is_refused(tmp_path: Path) -> None:
    assert "too few" in refused(ConfigError, tmp_path, probe=[examples(3, 1)])


def test_an_empty_probe_is_refused(tmp_path: Path) -> None:
    assert "0 sample(s)" in refused(ConfigError, tmp_path, probe=[])


def test_a_probe_of_another_dtype_is_refused_with_the_tensor_and_both_dtypes(tmp_path: Path) -> None:
    inputs, targets = examples(96, 1)
    told = refused(ConfigError, tmp_path, probe=[(inputs, targets), (inputs.double(), targets)])
    assert "the input `input` is float64, and that of `sample` is float32" in told
    assert ".to(torch.float32)" in told
    assert not tmp_path.joinpath("checkpoints").exists()


def test_a_data_set_of_single_samples_is_told_of_a_data_loader(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(*examples(64, 1))
    assert "DataLoader(probe, batch_size=16)" in refused(ConfigError, tmp_path, probe=data)


@pytest.mark.parametrize("given", ["no", "min", 1])
def test_a_direction_that_is_neither_true_nor_false_is_refused(tmp_path: Path, given: Any) -> None:
    assert "neither True nor False" in refused(ConfigError, tmp_path, higher_is_better=given)


def test_an_optimizer_of_another_network_is_refused(tmp_path: Path) -> None:
    stranger = torch.optim.SGD(small_network().parameters(), 0.1)
    assert "none of them belongs" in refused(ConfigError, tmp_path, optimizer=stranger)


def test_a_run_directory_that_cannot_be_written_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told = refused(CheckpointError, tmp_path / "file" / "run")
    assert str(tmp_path / "file") in told


def test_a_run_directory_that_holds_a_run_is_not_touched(tmp_path: Path) -> None:
    with attached(tmp_path) as session:
        train(session)
        session.end_epoch(accuracy=0.5)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert "esper.resume" in refused(CheckpointError, tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


def test_a_run_directory_of_another_network_is_refused_and_stays_whole(tmp_path: Path) -> None:
    with attached(tmp_path):
        pass
    narrow, first = small_network(), nn.Linear(8, 16)
    narrow[0], narrow[3] = first, nn.Linear(16, 32)
    renamed = nn.Sequential(
        OrderedDict(first=small_network()[0], **dict(list(small_network().named_children())[1:]))
    )
    same = type("Renamed", (nn.Sequential,), {})(*small_network())
    for other, difference in (
        (narrow, "0.weight is float32[32, 8] in the checkpoint and float32[16, 8] here"),
        (renamed, "0.weight is missing here; 0.bias is missing here; first.weight is not in the checkpoint"),
        (
            same,
            "of the same structure, is of the class Renamed",
        ),
    ):
        assert difference in refused(CheckpointError, tmp_path, model=other, resume=True)
    with attached(tmp_path, resume=True) as session:
        assert session.epoch == 0


def test_two_sessions_on_one_run_directory_are_refused(tmp_path: Path) -> None:
    with attached(tmp_path) as session:
        assert "already being written" in refused(CheckpointError, tmp_path, resume=True)
        train(session)
        session.end_epoch(accuracy=0.5)


def test_a_ramp_that_cannot_be_is_refused_without_leaving_the_directory_locked(tmp_path: Path) -> None:
    impossible = settings(pruning={"schedule": {"start_epoch": 5, "end_epoch": 20}})
    assert "ramp" in refused(ConfigError, tmp_path, config=impossible)
    with attached(tmp_path):
        pass


def test_without_probe_data_training_goes_on_saved_and_unpruned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with attached(tmp_path, probe=None) as session:
        assert "no held-out data" in caplog.text
        train(session)
        session.end_epoch(accuracy=0.5)
        result = session.finish(latency=False)
    assert any("no held-out data" in note for note in result.report.notes)
    assert result.report.flops_after == result.report.flops_before


def test_with_nothing_to_prune_training_goes_on_saved_and_unpruned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with attached(tmp_path, nn.Linear(8, 4)) as session:
        assert "no width of this network is free (one is compared with the target by cross" in caplog.text
        train(session)
        session.end_epoch(accuracy=0.5)
        assert session.finish(latency=False).report_path.exists()


def test_without_optimizer_state_nothing_is_pruned_and_training_goes_on(tmp_path: Path) -> None:
    class Forgetful(torch.optim.SGD):
        """Has no state at all."""

    model = small_network()
    never = settings(importance={"stride": 4096, "min_importance_samples": 10**6, "twin_samples": 0})
    with attached(tmp_path, model, optimizer=Forgetful(model.parameters(), 0.1), config=never) as session:
        for _ in range(4):
            train(session)
            session.end_epoch(accuracy=0.5)
        assert session.removed_fraction == 0.0
        assert session.finish(latency=False).report_path.exists()


def test_a_metric_that_is_missing_changes_nothing_and_the_call_can_be_repeated(tmp_path: Path) -> None:
    with attached(tmp_path, metric="accuracy") as session:
        train(session)
        with pytest.raises(ConfigError, match=r"session.end_epoch\(accuracy="):
            session.end_epoch(f1=0.5)
        with pytest.raises(ConfigError, match="no single number"):
            session.end_epoch(accuracy=torch.ones(3))  # type: ignore[arg-type]  # what the test is about
        assert session.epoch == 0
        session.end_epoch(accuracy=0.5)
        assert session.epoch == 1


def test_a_metric_that_is_no_number_prunes_nothing_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with attached(tmp_path, config=settings(pruning={"target": None})) as session:
        train(session)
        session.end_epoch(accuracy=0.5)
        good = session.step
        next(session.model.parameters()).data[0] = float("nan")
        for _ in range(5):
            train(session)
            session.end_epoch(accuracy=float("nan"))
        session.parts.saving.settle()
        assert good in [checkpoint.step for checkpoint in session.parts.saving.store.list().checkpoints]
        told = [record.getMessage() for record in caplog.records if "accuracy is nan" in record.message]
        assert [text.partition(":")[0] for text in told] == [f"epoch {number}" for number in range(2, 7)]
        assert sum("accuracy is nan" in note for note in session.log.notes) == 1
        assert session.rollback(good) == good
        assert session.finish(latency=False).report_path.exists()


def test_an_epoch_without_a_step_counts_and_saves_nothing(tmp_path: Path) -> None:
    with attached(tmp_path) as session:
        train(session)
        session.end_epoch(accuracy=0.5)
        session.end_epoch(accuracy=0.5)
        assert session.epoch == 2
        assert any("nothing new to save" in note for note in session.log.notes)
        train(session)
        session.end_epoch(accuracy=0.5)


class Sharp(torch.optim.Optimizer):
    """Takes its steps by another optimizer that it holds, as implementations of SAM do."""

    def __init__(self, model: nn.Module) -> None:
        self.base = torch.optim.SGD(model.parameters(), 0.1)
        super().__init__(self.base.param_groups, {})

    def second_step(self) -> None:
        self.base.step()


def test_an_optimizer_that_another_one_steps_for_is_named_once_with_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = small_network()
    optimizer = Sharp(model)
    session = attach(tmp_path / "run", model, optimizer=optimizer, metric="accuracy")
    for _ in range(2):
        inputs, targets = examples(16, 0)
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.second_step()
        session.end_epoch(accuracy=0.5)
    told = [r.message for r in caplog.records if "was not called since esper.attach" in r.message]
    assert len(told) == 1
    assert "given Sharp" in told[0]
    assert ".base (SGD)" in told[0]
    assert "made no step" in str(session.finish(latency=False))


def test_a_session_that_has_ended_says_so(tmp_path: Path) -> None:
    with attached(tmp_path) as session:
        train(session)
        session.end_epoch(accuracy=0.5)
        session.finish(latency=False)
        for use in (lambda: session.end_epoch(accuracy=0.5), session.finish, session.rollback):
            with pytest.raises(EsperError, match="has ended"):
                use()
        train(session)  # the network is the user's own again


@pytest.mark.usefixtures("worker")
def test_an_analysis_over_its_deadline_is_skipped_and_training_goes_on(tmp_path: Path) -> None:
    late = settings(
        pruning={**TARGET, "budget": {"deadline_seconds": 0.001}},
        analysis={"workers": 1, "memory_bytes": 8 << 30},
    )
    with attached(tmp_path, config=late) as session:
        for _ in range(2):
            train(session)
            session.end_epoch(accuracy=0.5)
        assert [mark.kind for mark in session.log.marks] == ["skipped"]
        assert session.removed_fraction == 0.0
        session.parts.saving.settle()
        newest = session.parts.saving.store.latest()
        assert newest is not None
        assert newest.step == session.step


@pytest.mark.usefixtures("worker")
def test_workers_that_die_in_the_middle_cost_one_cycle_at_most(tmp_path: Path) -> None:
    with attached(tmp_path, config=settings(pruning=TARGET, analysis={"workers": 1})) as session:
        train(session)
        session.end_epoch(accuracy=0.5)
        for supervisor in supervisors():
            os.kill(supervisor, signal.SIGKILL)
        for _ in range(3):
            train(session)
            session.end_epoch(accuracy=0.5)
        assert "mask" in [mark.kind for mark in session.log.marks]


def test_attaching_leaves_the_randomness_of_training_alone(tmp_path: Path) -> None:
    data = torch.utils.data.TensorDataset(*examples(192, 1))
    probe = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    model = small_network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with attached(tmp_path, model, probe=probe):
        assert torch.equal(torch.rand(3), expected)


def test_a_newer_damaged_checkpoint_is_passed_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(tmp_path)
    training.epoch()
    step = training.session.step
    training.epoch()
    training.session.detach()
    damaged = tmp_path / "checkpoints" / f"step-{2 * step:09d}" / "optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    again = Training(tmp_path)
    assert again.session.step == step
    (aside,) = (tmp_path / "checkpoints").glob(f".aside-{damaged.parent.name}-*")
    assert f"passed over: {damaged.parent.name}" in caplog.text
    assert f"set aside as {aside}" in caplog.text
    assert (aside / damaged.name).read_bytes().endswith(b"?")
    again.epoch()
    again.session.detach()


def test_a_probe_that_is_no_loader_of_batches_is_refused_at_once(tmp_path: Path) -> None:
    text = refused(ConfigError, tmp_path / "pair", probe=examples(192, 1))  # input and target, not batches
    assert "probe=[(input, target)]" in text
    assert "Nothing was changed" in text
    inputs, targets = examples(192, 1)
    sizes = refused(ConfigError, tmp_path / "sizes", probe=[(inputs[..., :-1], targets)] * 2)
    assert "the first holds [16, 7] where the network was traced with [any, 8]" in sizes


@pytest.mark.parametrize(
    ("metric", "given", "is_higher_better", "told"),
    [
        ("val_loss", None, False, "Less val_loss counts as better, as the name says"),
        ("accuracy", None, True, ""),
        ("quality", None, True, "More quality counts as better, as the name does not say"),
        ("loss", True, True, ""),
    ],
)
def test_the_name_of_a_metric_says_its_direction_where_nobody_does(
    tmp_path: Path, metric: str, given: bool | None, is_higher_better: bool, told: str
) -> None:
    with attached(tmp_path / "run", metric=metric, higher_is_better=given) as session:
        assert session.parts.terms.higher_is_better == is_higher_better
        notes = [note for note in session.log.notes if "counts as better" in note]
        assert len(notes) == bool(told)
        assert told in "".join(notes)
