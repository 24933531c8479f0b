"""Capture and bitwise resume of a training run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.checkpoint.background import BackgroundSaver
from esper.checkpoint.codec import encode, to_json
from esper.checkpoint.content import FileContent
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.trainer_state import TrainerState, capture_trainer, load_trainer, restore_trainer
from esper.errors import CheckpointCorrupt, CheckpointError
from tests.checkpoint.resume_process import fingerprint
from tests.checkpoint.runs import Training, flip, open_store

ROOT = Path(__file__).parents[2]


def capture(training: Training, step: int, **changes: Any) -> TrainerState:
    return capture_trainer(
        training.model,
        training.optimizer,
        step=step,
        epoch=0,
        schedulers=training.schedulers,
        scaler=training.scaler,
        generators=training.generators,
        **changes,
    )


def restore(state: TrainerState, training: Training) -> None:
    restore_trainer(
        state,
        training.model,
        training.optimizer,
        schedulers=training.schedulers,
        scaler=training.scaler,
        generators=training.generators,
    )


def test_a_new_process_continues_bit_for_bit(tmp_path: Path) -> None:
    expected = {}
    for optimizer in ("SGD", "Adam", "AdamW"):
        training = Training(optimizer)
        with open_store(tmp_path / optimizer) as store, BackgroundSaver(store) as saver:
            for step in range(1, 7):
                training.step()
                if step == 3:
                    saver.submit(step, 0, capture(training, step).files())
        expected[optimizer] = fingerprint(training)
    other = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.resume_process", str(tmp_path), "3", *expected],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"},
    )
    assert dict(zip(expected, other.stdout.splitlines(), strict=True)) == expected


def test_live_tensors_are_filled_in_place(store: CheckpointStore) -> None:
    training = Training("AdamW")
    training.step()
    before = {name: (id(p), p.data_ptr()) for name, p in training.model.named_parameters()}
    moment = training.optimizer.state[next(training.model.parameters())]["exp_avg"]
    address, saved = moment.data_ptr(), moment.clone()
    ref = store.save(1, 0, capture(training, 1).files())
    training.step()
    assert not torch.equal(moment, saved)
    restore(load_trainer(ref), training)
    assert {name: (id(p), p.data_ptr()) for name, p in training.model.named_parameters()} == before
    now = training.optimizer.state[next(training.model.parameters())]["exp_avg"]
    assert now is moment
    assert (now.data_ptr(), torch.equal(now, saved)) == (address, True)


def test_nothing_that_was_restored_depends_on_the_file(store: CheckpointStore) -> None:
    training, fresh = Training("AdamW"), Training("AdamW")
    training.step()
    ref = store.save(1, 0, capture(training, 1).files())
    expected = fingerprint(training)
    restore(load_trainer(ref), fresh)
    for file in ref.files.values():
        with file.path.open("r+b") as raw:
            raw.write(bytes(file.size))
    assert fingerprint(fresh) == expected


def test_float32_moments_of_bfloat16_parameters_keep_their_bits(store: CheckpointStore) -> None:
    model = torch.nn.Linear(3, 3).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    moment = torch.full((3, 3), 1.0 / 3.0)
    optimizer.state[model.weight]["momentum_buffer"] = moment.clone()
    ref = store.save(1, 0, capture_trainer(model, optimizer, step=1, epoch=0).files())
    optimizer.state.clear()
    restore_trainer(load_trainer(ref), model, optimizer)
    assert torch.equal(optimizer.state[model.weight]["momentum_buffer"], moment)


def test_state_that_is_not_a_tensor_is_restored_too(store: CheckpointStore) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, history_size=2)

    def step() -> None:
        def closure() -> float:
            optimizer.zero_grad()
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            return float(loss.detach())

        take: Callable[[Callable[[], float]], object] = optimizer.step
        take(closure)

    step()
    ref = store.save(1, 0, capture_trainer(model, optimizer, step=1, epoch=0).files())
    step()
    after = [p.clone() for p in model.parameters()]
    restore_trainer(load_trainer(ref), model, optimizer)
    step()
    assert all(torch.equal(a, b) for a, b in zip(after, model.parameters(), strict=True))


class Counting(torch.nn.Module):
    """A module with a state that is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_extra_state_of_modules_and_of_the_run_is_kept(store: CheckpointStore) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), Counting())
    counting = model[1]
    assert isinstance(counting, Counting)
    counting.calls = 5
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    extra = {"position": 17, "mask": torch.tensor([True, False])}
    ref = store.save(4, 2, capture_trainer(model, optimizer, step=4, epoch=2, extra=extra).files())
    counting.calls = 0
    state = load_trainer(ref)
    restore_trainer(state, model, optimizer)
    assert counting.calls == 5
    assert (state.step, state.epoch, state.extra["position"]) == (4, 2, 17)
    assert state.extra["mask"].tolist() == [True, False]


def test_a_model_without_module_versions_is_restored() -> None:
    class Plain(torch.nn.Linear):
        def state_dict(self, **options: Any) -> dict[str, Any]:  # type: ignore[override] # as DDP wrappers do
            return dict(super().state_dict(**options))

    model = Plain(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = capture_trainer(model, optimizer, step=0, epoch=0)
    assert state.model_metadata == {}
    restore_trainer(state, model, optimizer)


def refused(state: TrainerState, training: Training, says: str) -> None:
    before = fingerprint(training)
    rng = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=says):
        restore(state, training)
    assert torch.equal(torch.get_rng_state(), rng)
    torch.set_rng_state(rng)
    assert fingerprint(training).split("next")[0] == before.split("next")[0]


def test_what_does_not_fit_is_named_and_nothing_is_changed() -> None:
    training = Training("AdamW")
    training.step()
    state = capture(training, 1)
    model = dict(state.model)
    refused(replace(state, model=model | {"more": torch.zeros(1)}), training, "more is missing here")
    refused(
        replace(state, model={k: v for k, v in model.items() if k != "5.bias"}),
        training,
        r"1 entries differ: 5\.bias is not in the checkpoint",
    )
    refused(
        replace(state, model=model | {"5.bias": torch.zeros(3)}),
        training,
        r"5\.bias is float32\[3\] in the checkpoint and float32\[2\] here",
    )
    groups = [{**group, "params": group["params"][:2]} for group in state.optimizer["param_groups"]]
    refused(
        replace(state, optimizer={**state.optimizer, "param_groups": groups}),
        training,
        r"groups have \[2\] parameters, those of this AdamW have \[6\]",
    )
    refused(replace(state, schedulers=()), training, "0 schedulers, and 2 were given")
    refused(replace(state, scaler=None), training, "no scaler, and one was given")
    refused(replace(state, rng={**state.rng, "generators": {}}), training, "random generators")


def test_a_model_restored_without_randomness_leaves_it_alone() -> None:
    training = Training("SGD")
    state = capture(training, 0)
    torch.rand(1)
    before = torch.get_rng_state()
    restore_trainer(
        state,
        training.model,
        training.optimizer,
        schedulers=training.schedulers,
        scaler=training.scaler,
        with_rng=False,
    )
    assert torch.equal(torch.get_rng_state(), before)


def test_a_value_that_cannot_be_stored_is_named() -> None:
    training = Training("SGD")
    with pytest.raises(CheckpointError, match=r"`extra\.hook` cannot be stored"):
        capture(training, 0, extra={"hook": print}).files()


@pytest.mark.parametrize(
    "tree", [[], {}, {"version": 2, "model": 1, "rest": 1}, {"version": 1, "model": {"dict": {}}}], ids=str
)
def test_a_tree_of_another_form_is_refused(store: CheckpointStore, tree: object) -> None:
    files: dict[str, FileContent] = {
        "trainer.json": to_json(tree),
        "model.safetensors": {},
        "optimizer.safetensors": {},
    }
    with pytest.raises(CheckpointCorrupt, match="no trainer state of version 1"):
        load_trainer(store.save(1, 0, files))


def test_a_tree_with_other_fields_is_refused(store: CheckpointStore) -> None:
    tree = {"version": 1, "model": {"dict": {}}, "rest": encode({"step": 1}).tree}
    files: dict[str, FileContent] = {
        "trainer.json": to_json(tree),
        "model.safetensors": {},
        "optimizer.safetensors": {},
    }
    with pytest.raises(CheckpointCorrupt, match="no trainer state of version 1"):
        load_trainer(store.save(1, 0, files))


def test_a_flipped_bit_anywhere_is_noticed_before_anything_is_restored(store: CheckpointStore) -> None:
    training = Training("AdamW")
    training.step()
    ref = store.save(1, 0, capture(training, 1).files())
    for name, file in ref.files.items():
        flip(file.path, file.size // 2, 3)
        with pytest.raises(CheckpointCorrupt, match=name.split(".")[0]):
            load_trainer(ref)
        flip(file.path, file.size // 2, 3)
    load_trainer(ref)
