"""Random walks through a session: whatever is called, no error of ours may end the training."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import esper
from esper.emrakul import MaskState
from esper.errors import CheckpointMissing, ConfigError, IllegalTransitionError, UnknownPathError
from tests.kasmina.seeds.networks import LENIENT
from tests.session.growers import network as normed_network
from tests.session.runs import Held, Training, examples, optimizer_of, settings, small_network

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "plain": (small_network, ("0", "3")),
    "normed": (normed_network, ("1", "4")),
}
"""Networks, and where something can grow on them."""
REFUSALS = (ConfigError, IllegalTransitionError, UnknownPathError)
"""What a call says that cannot be done now."""


class Walker(Training):
    """One walk. Everything in it follows from its number.

    Args:
        folder: for its runs.
        number: of the walk.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self.rng = rng = random.Random(f"walk {number}")
        self.folder, self.starts = folder, 0
        self.run_dir = folder / "0"
        self.network, self.places = NETWORKS[rng.choice(list(NETWORKS))]
        self.kind = rng.choice(["adamw", "sgd"])
        self.length_said: dict[str, Any] = rng.choice(
            [{"epochs": 6}, {"epochs": 8}, {"steps": 18}, {}, {"every_n_steps": 3, "steps": 19}]
        )
        self.schedule_length = rng.choice([4, 12, 40])
        self.rules = settings(**_rules(rng))
        self.trace: list[str] = []
        self.is_spoiled = False
        self.bits: dict[int, str] = {}
        """What a checkpoint holds, by its step, where nothing was changed since it was saved."""
        self.begin()

    def begin(self) -> None:
        """Begins the run, or goes on with it, as a fresh process would."""
        torch.set_num_threads(1)
        self.model = self.network()
        self.optimizer = optimizer_of(self.model, self.kind)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, self.schedule_length)
        self.loss = nn.CrossEntropyLoss()
        self.train_data, self.held_out = examples(96, 0), examples(192, 1)
        self.session = esper.attach(
            self.model,
            self.optimizer,
            loss=self.loss,
            sample=(self.train_data[0][:16], self.train_data[1][:16]),
            probe=[self.held_out],
            run_dir=self.run_dir,
            config=self.rules,
            **self.length_said,
            scheduler=self.scheduler,
            resume=True,
        )
        self.starts += 1
        self.strategy = Held(self.rules.pruning, self.session.parts.terms.epochs)
        self.session.parts.runner.strategy = self.strategy
        self.is_held = False

    def walk(self, count: int) -> str:
        """Makes so many moves and ends the run; says what was wrong, or nothing."""
        moves = (
            *[self.good_epoch] * 9,
            *[self.any_epoch] * 4,
            *[self.hold, self.release] * 2,
            *[self.probation, self.veto, self.roll_back, self.start_again, self.grow] * 1,
            *[self.lead_seed, self.spoil, self.close_breaker, self.part_of_an_epoch] * 1,
        )
        try:
            for _ in range(count):
                move = self.rng.choice(moves)
                self.trace.append(move.__name__)
                move()
                self.check()
            self.finish()
        except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
            return f"{type(error).__name__}: {error} after {', '.join(self.trace)}"
        finally:
            self.let_go()
            self.session.detach()
        return ""

    # --- Moves ---

    def good_epoch(self) -> None:
        self.end({"accuracy": 0.5})

    def any_epoch(self) -> None:
        accuracy = self.rng.choice([0.6, 0.05, math.nan, math.inf, None])
        loss = self.rng.choice([1.0, 1e9, math.nan])
        self.end(self.rng.choice([{"accuracy": accuracy}, {"accuracy": accuracy, "loss": loss}, {}]))

    def end(self, metrics: dict[str, Any]) -> None:
        """Trains an epoch, or none, and ends it."""
        for batch in self.batches() if self.rng.random() < 0.95 else ():
            self.step(*batch)
            if "every_n_steps" in self.length_said:
                self.session.end_step(**metrics)
        self.scheduler.step()
        if "every_n_steps" not in self.length_said:
            self.session.end_epoch(**metrics)
            if self.session.parts.saving.last_epoch == self.session.epoch:  # an epoch may have had no step
                self.bits[self.session.step] = self.fingerprint()

    def part_of_an_epoch(self) -> None:
        self.step(*next(self.batches()))

    def hold(self) -> None:
        """From now on analyses are late."""
        self.is_held = True
        self.strategy.go.clear()
        self.wait(0.01)

    def release(self) -> None:
        self.let_go()

    def probation(self) -> None:
        trial = self.session.parts.trial
        if trial.watch is not None:
            trial.watch = replace(trial.watch, is_on_probation=True)

    def veto(self) -> None:
        is_on_trial = self.session.parts.trial.mask is MaskState.ON_TRIAL
        self.bits.pop(self.session.step, None)
        try:
            self.session.veto("a walk")
        except ConfigError:
            assert not is_on_trial
        else:
            assert is_on_trial

    def roll_back(self) -> None:
        self.session.parts.saving.settle()
        there = [checkpoint.step for checkpoint in self.session.parts.saving.store.list().checkpoints]
        wanted = self.rng.choice([None, 10**6, *there])
        try:
            step = self.session.rollback(wanted)
        except CheckpointMissing:
            assert wanted == 10**6
            return
        assert wanted in (None, step)
        self.compare()
        self.bits = {saved: bits for saved, bits in self.bits.items() if saved <= step}

    def start_again(self) -> None:
        """The process ends, or is killed, and another one goes on."""
        self.session.parts.saving.settle()
        killed = Path(shutil.copytree(self.run_dir, self.folder / str(self.starts)))
        (killed / "checkpoints" / ".writer.json").unlink()  # names this process, which lives
        self.let_go()
        self.session.detach()
        if self.rng.random() < 0.5:
            self.run_dir = killed
        self.begin()
        self.compare()

    def grow(self) -> None:
        self.bits.pop(self.session.step, None)
        with suppress(*REFUSALS):
            self.session.grow(self.rng.choice([*self.places, "nowhere"]), self.rng.choice(["mlp", "unknown"]))

    def lead_seed(self) -> None:
        growing = self.session.growing
        self.bits.pop(self.session.step, None)
        with suppress(*REFUSALS):
            self.rng.choice([growing.cull, growing.pause, growing.unpause])(self.rng.choice(self.places))

    def spoil(self) -> None:
        """The training itself breaks: a weight is no number any more."""
        if self.rng.random() < 0.3:
            self.bits.pop(self.session.step, None)
            self.is_spoiled = True
            with torch.no_grad():
                next(self.model.parameters()).view(-1)[0] = math.nan

    def close_breaker(self) -> None:
        self.session.close_breaker()

    def finish(self) -> None:
        self.let_go()  # what is late is still under way
        result = self.session.finish(latency=False)
        assert result.report_path.exists()
        is_missed = result.target is not None and result.reached < result.target - 1e-9
        assert result.why.startswith("The target was missed") == is_missed
        self.check()

    # --- What must always hold ---

    def check(self) -> None:
        network = self.session.parts.network
        keep, anatomy, trial = network.masks.keep, network.anatomy, self.session.parts.trial
        assert keep.size == anatomy.num_units
        assert network.masks.num_revived() == 0 or self.is_spoiled
        assert (trial.mask is MaskState.ON_TRIAL) == (trial.watch is not None)
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for parameter in self.model.parameters():
            assert id(parameter) in trained
            state = self.optimizer.state.get(parameter, {}).values()
            assert all(s.shape == parameter.shape for s in state if isinstance(s, torch.Tensor) and s.dim())
        if not self.session.growing.is_under_way:
            assert anatomy.parameters() == sum(p.numel() for p in self.model.parameters())

    def compare(self) -> None:
        """The network is what the checkpoint of its step holds."""
        before = self.bits.get(self.session.step)
        assert before in (None, self.fingerprint())

    # --- How ---

    def step(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.session.loss(self.model(inputs), targets, inputs)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        state = super().state()  # seeds are tried in tests of their own; a measured time is in theirs
        return {**state, "structure": state["structure"]["changes"]}

    def let_go(self) -> None:
        self.is_held = False
        self.strategy.go.set()
        self.wait(60.0)

    def wait(self, seconds: float) -> None:
        """How long the end of an epoch waits for an analysis."""
        terms = self.session.parts.terms
        analysis = self.rules.analysis.model_copy(update={"max_wait_seconds": seconds})
        terms.config = terms.config.model_copy(update={"analysis": analysis})


def _rules(rng: random.Random) -> dict[str, Any]:
    schedule = {
        "max_sure_fraction": rng.choice([0.0, 1.0]),
        "quiet_fraction": rng.choice([0.0, 0.2]),
        "start_epoch": rng.choice([1, 2]),
        "end_epoch": rng.choice([2, 4, 5]),
    }
    mode: dict[str, Any] = {"target": {"flops": rng.choice([0.1, 0.4])}, "schedule": schedule}
    pruning = rng.choice([mode, mode, {"target": None, "staged": True, "schedule": {}}])
    return {
        "pruning": {
            **pruning,
            "budget": {"compute_fraction": None, "max_failures": rng.choice([1, 3])},
            "rollback": {"settle_epochs": rng.choice([1, 2]), "probation_epochs": 3},
            "recovery": {"reconstruct": rng.random() < 0.5, "distill": rng.random() < 0.3},
            "cut": {"min_saved_fraction": rng.choice([0.0, 0.5])},
        },
        "growing": {**LENIENT, "train_steps": 2, "ramp_steps": 8, "embargo_epochs": 1, "check_every": 5},
        "checkpoint": {"keep_last": rng.choice([2, 20]), "background": rng.random() < 0.5},
    }
