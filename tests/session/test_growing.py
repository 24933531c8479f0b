"""Seeds in a session: saved, resumed, taken back, told, pruned; never together with a mask under way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import esper
from esper.compaction import finished_files
from esper.errors import CheckpointError, ConfigError, IllegalTransitionError, UnknownPathError
from esper.kasmina import SeedJoined, UnitsCut
from esper.nissa import ListSink, events, progress, seed_events
from esper.report import RunReport
from esper.runs import checkpoint_at
from tests.session.growers import (
    CULLED,
    GROWN,
    KEPT,
    LENGTH,
    Averaged,
    GrowingTraining,
    copy_of,
    grow,
    grow_and_die,
    grow_and_go_back,
    network,
)
from tests.session.processes import told_by
from tests.session.runs import Training, examples


@contextmanager
def run(path: Path, kind: type[Training] = GrowingTraining, **changes: Any) -> Iterator[Any]:
    training = kind(path, **changes)
    try:
        yield training
    finally:
        training.session.detach()


class ByHand(GrowingTraining):
    plan = {}  # noqa: RUF012


@dataclass
class Straight:
    """A run that was never stopped: fingerprints and steps after its epochs, and where copies of it lie."""

    run_dir: Path
    prints: dict[int, str]
    steps: dict[int, int]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    *epochs, (stages, _) = told_by(grow, run_dir, LENGTH)
    assert stages == {KEPT: "FOSSILIZED", CULLED: "DORMANT"}
    return Straight(
        run_dir, {epoch: print_ for epoch, print_, _ in epochs}, {epoch: step for epoch, _, step in epochs}
    )


def test_a_seed_goes_all_the_way_and_is_then_a_part_of_the_network_that_loads_and_is_told(
    tmp_path: Path,
) -> None:
    with run(tmp_path) as training:
        session, sink = training.session, ListSink()
        session.log.telling.sinks.append(sink)
        training.go(LENGTH)
        live = session.parts.network
        assert [type(change) for change in live.changes] == [SeedJoined]
        names = [group.name for group in live.anatomy.groups]
        assert live.anatomy.num_units == 24 + 6
        assert f"{KEPT}.seed.0" in names
        old = live.changes[0].origin  # every unit of before is one of after, under another name or its own
        assert sorted(old[old >= 0]) == list(range(24))
        # What the optimizer knows of the seed came along, and schedulers know its group.
        assert len(training.optimizer.param_groups) == 1
        assert len(training.optimizer.state) == len(list(training.model.parameters()))
        audit = session.parts.saving.store.audit
        assert [event.slot for event in audit.told(seed_events.SeedGerminated)] == [KEPT, CULLED]
        assert [event.slot for event in audit.told(seed_events.SeedFossilized)] == [KEPT]
        assert [event.slot for event in audit.told(seed_events.SeedCulled)] == [CULLED]
        result = session.finish(latency=False)
        assert "what has grown" in str(result)
        x = training.held_out[0]
        training.model.eval()
        for loaded in (esper.load(tmp_path), esper.load(tmp_path, model=network()).eval()):
            torch.testing.assert_close(loaded(x), training.model(x))
        files = finished_files(*checkpoint_at(tmp_path))
        assert files is not None
        assert all(before == after for before, after in files.facts["widths"].values())  # nothing was cut
    told = [type(event) for event in sink.events]
    assert told.count(seed_events.SeedFossilized) == told.count(seed_events.SeedSettled) == 1
    report = RunReport.read(tmp_path / "report.json")
    kept = [row.after for row in report.seeds if row.slot == KEPT]
    assert kept == [
        *("GERMINATED", "TRAINING", "BLENDING", "SHADOWING"),
        *("PROBATIONARY", "FOSSILIZED", "TERMINATED"),
    ]
    assert all(row.evidence for row in report.seeds if row.after in ("GERMINATED", "FOSSILIZED", "CULLED"))
    assert [mark.kind for mark in report.marks] == ["germinated", "germinated", "culled", "fossilized"]
    assert report.programs == 0
    page = (tmp_path / "report.html").read_text()
    assert "Seeds and their evidence" in page
    assert "torch.compile made nothing." in page


# Learning apart; on the ramp down; on the way of gamma; a plain part of the network.
@pytest.mark.parametrize("stop", [2, 6, 8, 10])
def test_a_run_goes_on_from_anywhere_in_another_process_bit_for_bit(stop: int, straight: Straight) -> None:
    *epochs, _ = told_by(grow, copy_of(straight.run_dir, stop), stop + 2)
    assert [told[:2] for told in epochs] == [(e, straight.prints[e]) for e in (stop + 1, stop + 2)]


def test_a_run_that_is_killed_on_a_ramp_goes_on_in_another_process_bit_for_bit(
    straight: Straight, tmp_path: Path
) -> None:
    (stages,) = told_by(grow_and_die, tmp_path / "run", 4)
    assert stages == {KEPT: "BLENDING", CULLED: "BLENDING"}
    *_, last, _ = told_by(grow, tmp_path / "run", 7)
    assert last[:2] == (7, straight.prints[7])


def test_a_rollback_goes_back_over_fossilization_cull_and_germination_exactly(straight: Straight) -> None:
    # To before it became a plain part; before the fossilization; before the cull; before anything germinated.
    steps = {epoch: straight.steps[epoch] for epoch in (8, 5, 4, 1)}
    told = told_by(grow_and_go_back, copy_of(straight.run_dir, 11), steps)
    assert told == [(epoch, straight.prints[epoch], straight.prints[epoch + 1]) for epoch in steps]


def test_what_has_grown_is_pruned_cut_and_taken_up_again_in_another_process(tmp_path: Path) -> None:
    with run(tmp_path, Averaged) as training:
        training.go(10)
        session, live = training.session, training.session.parts.network
        number = [group.name for group in live.anatomy.groups].index(f"{KEPT}.seed.0")
        units = live.anatomy.unit_slice(number)
        keep = live.masks.keep.copy()
        keep[units][:4] = False
        live.masks.apply(keep)
        assert session.pruning.acting.cut() is not None
        assert [type(change) for change in live.changes] == [SeedJoined, UnitsCut]
        training.epoch()
        before, hidden = training.fingerprint(), training.model[1].seed[0].out_features
    with run(tmp_path, Averaged) as training:
        assert training.fingerprint() == before
        assert training.model[1].seed[0].out_features == hidden == 2
        assert training.average.module[1].seed[0].out_features == 2
        result = training.session.finish(latency=False)
        x = training.held_out[0]
        fresh = esper.load(tmp_path, model=network()).eval()
        torch.testing.assert_close(fresh(x), result.model.eval()(x))


def test_while_a_seed_is_under_way_names_and_state_are_those_of_the_host(tmp_path: Path) -> None:
    with run(tmp_path, ByHand) as training:
        names, state = list(dict(training.model.named_parameters())), list(training.model.state_dict())
        assert training.session.grow(KEPT, "mlp")
        for _ in range(3):
            training.epoch()
        assert training.stages() == {KEPT: "BLENDING"}
        assert type(training.model[1]).__name__ == "KasminaLayer"
        assert list(dict(training.model.named_parameters())) == names
        assert list(training.model.state_dict()) == state
        plain = network()
        plain.load_state_dict(training.model.state_dict())  # whoever saves it by hand gets the host
        training.model.load_state_dict(plain.state_dict())


class Pruned(GrowingTraining):
    """With a target, in the settings of the other tests of pruning; grows by hand."""

    plan = {}  # noqa: RUF012

    def __init__(self, run_dir: Path) -> None:
        given = {"target": {"parameters": 0.3}, "schedule": {"start_epoch": 2, "end_epoch": 5}}
        super().__init__(run_dir, pruning={**given, "budget": {"compute_fraction": None}})


def test_masks_and_seeds_are_tried_one_at_a_time(tmp_path: Path) -> None:
    with run(tmp_path, Pruned) as training:
        session, sink = training.session, ListSink()
        session.log.telling.sinks.append(sink)
        training.until_masked()
        refused = session.grow(KEPT, "mlp")
        assert not refused.passed
        assert "a mask is on trial" in str(refused)
        assert not any(result.passed for result in session.growing.try_out().values())
        assert isinstance(sink.events[-1], seed_events.SeedRefused)
        training.until(lambda: session.parts.trial.mask == "none" and session.parts.runner.is_running)
        settled = session.parts.network.masks.num_masked
        assert session.grow(KEPT, "mlp", width=6).passed
        # What had proved itself was cut, and what was being decided is dropped.
        assert session.parts.network.masks.num_masked == 0
        assert settled == 0 or isinstance(session.parts.network.changes[-1], UnitsCut)
        assert not session.parts.runner.is_running
        while session.growing.is_under_way:
            training.epoch()
            assert session.parts.network.masks.num_masked == 0
            assert not (session.growing.is_under_way and session.parts.runner.is_running)
        assert sum(isinstance(event, seed_events.PruningRests) for event in sink.events) == 1
        decides = (events.Idle, progress.AnalysisBegan)  # about a network that has grown
        assert [event.epoch for event in sink.events if isinstance(event, decides)][-1] == session.epoch


def test_a_contest_of_seeds_survives_a_resume(tmp_path: Path) -> None:
    slow = {**GROWN["growing"], "train_steps": 8}
    with run(tmp_path, ByHand, growing=slow) as training:
        assert training.session.growing.places() == ["1", "5"]
        results = training.session.growing.try_out(width=4)
        assert all(result.passed for result in results.values())
        training.go(1)
        assert set(training.stages().values()) == {"TRAINING"}
        steps = training.session.step
        training.go(2)
        stages, after = training.stages(), training.fingerprint()
        assert set(stages.values()) == {"EMBARGOED"}  # so soon none helps, and nothing is left of them
        training.session.rollback(steps)
    with run(tmp_path, ByHand, growing=slow) as training:
        assert set(training.stages().values()) == {"TRAINING"}
        training.go(2)
        assert (training.stages(), training.fingerprint()) == (stages, after)


def test_a_session_that_does_not_grow_has_nothing_of_it(tmp_path: Path) -> None:
    with run(tmp_path, ByHand) as training:
        hooks = len(training.optimizer._optimizer_step_pre_hooks)
        training.epoch()
        assert training.session.growing.state() is None
        assert len(training.optimizer._optimizer_step_pre_hooks) == hooks
        assert str(training.session.growing) == "Nothing has germinated."
        assert training.session.growing.slots == {}


def test_an_act_that_the_audit_cannot_hold_is_not_done(tmp_path: Path) -> None:
    class Full:
        def emit(self, event: Any) -> None:
            if isinstance(event, seed_events.SeedGerminated):
                raise CheckpointError("no space")

    with run(tmp_path, ByHand) as training:
        training.session.log.telling.sinks.insert(0, Full())
        with pytest.raises(CheckpointError, match="no space"):
            training.session.grow(KEPT, "mlp")
        assert training.session.growing.slots == {}
        training.epoch()
        training.session.log.telling.sinks.pop(0)
        assert training.session.grow(KEPT, "mlp").passed


def test_what_cannot_be_grown_is_refused_with_the_way_out(tmp_path: Path) -> None:
    class Odd(nn.Module):
        """Alright to run, and not to be traced."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 0 if float(x.detach().sum()) > 1e9 else x * 0.0

    def odd(like: torch.Tensor) -> nn.Module:
        return nn.Sequential(nn.Linear(like.shape[-1], like.shape[-1]), Odd())

    class WithOdd(ByHand):
        def blueprints(self) -> Any:
            return {"odd": odd}

    with run(tmp_path / "a", WithOdd) as training:
        session = training.session
        with pytest.raises(UnknownPathError, match="no module '9'"):
            session.grow("9", "mlp")
        with pytest.raises(ConfigError, match="no blueprint 'tree'"):
            session.grow(KEPT, "tree")
        refused = session.grow(KEPT, "odd")
        assert not refused.passed
        assert "cannot be traced" in str(refused)
        with pytest.raises(IllegalTransitionError, match="nothing can cull"):
            session.growing.cull(KEPT)
        assert session.grow(KEPT, "mlp").passed
        with pytest.raises(IllegalTransitionError):
            session.grow(KEPT, "mlp")
        x, y = training.held_out
        with pytest.raises(ConfigError, match=r"session\.loss"):
            session.loss(training.model(x), y)
        session.growing.pause(KEPT)
        session.growing.unpause(KEPT)
        training.epoch()
    with pytest.raises(CheckpointError, match="holds a run already"):
        esper.attach(*bare(), **given(tmp_path / "a"))


def bare() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = network()
    return model, torch.optim.SGD(model.parameters(), 0.1)


def given(run_dir: Path) -> dict[str, Any]:
    x, y = examples(16, 0)
    return {"loss": nn.CrossEntropyLoss(), "sample": (x, y), "run_dir": run_dir, "config": GROWN}


def test_without_held_out_data_nothing_grows(tmp_path: Path) -> None:
    session = esper.attach(*bare(), **given(tmp_path / "a"))
    with pytest.raises(ConfigError, match="probe="):
        session.grow(KEPT, "mlp")
    session.detach()


def mine(like: torch.Tensor) -> nn.Module:
    seed = nn.Linear(like.shape[-1], like.shape[-1])
    nn.init.zeros_(seed.weight)
    nn.init.zeros_(seed.bias)
    return seed


def test_a_blueprint_that_nobody_knows_is_refused_and_does_not_keep_the_run_from_going_on(
    tmp_path: Path,
) -> None:
    with run(tmp_path, ByHand) as training:
        training.session.grow(KEPT, "mlp", width=6)
        training.session.growing.cull(KEPT)
        while training.stages() != {KEPT: "DORMANT"}:
            training.epoch()
        with pytest.raises(ConfigError, match="no blueprint 'tree'"):
            training.session.grow(KEPT, "tree")
        training.epoch()
        epoch = training.session.epoch
    with run(tmp_path, ByHand) as training:
        assert training.session.epoch == epoch
        assert training.session.grow(KEPT, "mlp", width=6).passed


def test_a_run_with_a_seed_of_ones_own_needs_its_blueprint_again(tmp_path: Path) -> None:
    x, y = examples(64, 1)
    model, optimizer = bare()
    own = {"mine": mine}
    data = {**given(tmp_path), "probe": [(x, y)], "blueprints": own}
    session = esper.attach(model, optimizer, **data)
    assert session.grow(KEPT, "mine").passed
    session.loss(model(x), y, x).backward()
    optimizer.step()
    session.end_epoch(accuracy=0.5)
    session.detach()
    with pytest.raises(ConfigError, match="no blueprint 'mine'"):
        esper.resume(tmp_path, *bare(), loss=data["loss"])
    session = esper.resume(tmp_path, *bare(), loss=data["loss"], blueprints=own)
    assert session.growing.slots[KEPT].stage.name == "TRAINING"
    session.detach()


class _Fickle(nn.Module):
    """A branch that hangs on data, from some day on: what was traced once can be traced no more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.is_fickle = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layer(inputs)
        return 1.0 * made if self.is_fickle and float(inputs.detach().sum()) > 0 else made


class _Fickler(ByHand):
    def blueprints(self) -> dict[str, Any]:
        return {"fickle": lambda like: _Fickle(like.shape[-1])}


def test_a_seed_with_which_the_network_cannot_be_traced_any_more_is_taken_out_and_ends_no_training(
    tmp_path: Path,
) -> None:
    with run(tmp_path, _Fickler) as training:
        session, sink = training.session, ListSink()
        session.log.telling.sinks.append(sink)
        training.epoch()
        assert session.grow(KEPT, "fickle").passed
        for _ in range(LENGTH):
            for module in training.model.modules():
                if isinstance(module, _Fickle):
                    module.is_fickle = session.epoch > 2
            training.epoch()
        assert [event.slot for event in sink.events if isinstance(event, seed_events.SeedLost)] == [KEPT]
        assert not any(isinstance(module, _Fickle) for module in training.model.modules())
        assert not session.parts.network.changes
        training.epoch()
        held = [p for group in session.optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in training.model.parameters()}
