"""A teacher answers, keeps what it was asked for, and stays as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from esper.errors import CheckpointError, ConfigError, LifecycleError
from esper.kasmina.teacher import CheckpointedTeacher


def network(seed: int = 0, classes: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes))
    return nn.Sequential(*layers)


class Noisy(nn.Module):
    """Draws in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.line(x + torch.randn_like(x))
        return answer


def inputs(seed: int = 1, count: int = 5) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


def test_it_answers_as_its_network_does_in_eval_mode_even_where_somebody_trains_that() -> None:
    model = network()
    expected = model.eval()(inputs()).detach()
    teacher = CheckpointedTeacher(model)
    model.train()
    answer = teacher.answer(inputs())
    assert torch.equal(answer, expected)
    assert not answer.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_who_learns_draws_the_same_numbers_with_it_and_without() -> None:
    teacher, before = CheckpointedTeacher(Noisy()), torch.get_rng_state()
    teacher.answer(inputs())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("given", [(inputs(),), {"input": inputs()}])
def test_inputs_come_as_the_network_takes_them(given: object) -> None:
    assert torch.equal(CheckpointedTeacher(network()).answer(given), network().eval()(inputs()))


def test_a_file_gives_it_its_weights_in_whatever_precision(tmp_path: Path) -> None:
    weights = {name: t.bfloat16() if t.dim() > 1 else t for name, t in network(1).state_dict().items()}
    save_file(weights, tmp_path / "better.safetensors")
    teacher = CheckpointedTeacher(network(0), tmp_path / "better.safetensors")
    torch.testing.assert_close(teacher.answer(inputs()), network(1).eval()(inputs()), atol=0.02, rtol=0)


def test_a_file_of_another_network_is_refused_by_its_tensors(tmp_path: Path) -> None:
    save_file(network(classes=4).state_dict(), tmp_path / "other.safetensors")
    teacher = CheckpointedTeacher(network())
    before = teacher.digest
    with pytest.raises(CheckpointError, match=r"other.safetensors.*4.weight is float32\[4, 8\]"):
        teacher.load(tmp_path / "other.safetensors")
    assert torch.equal(teacher.answer(inputs()), network().eval()(inputs()))
    assert teacher.digest == before


def test_what_could_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="safetensors only"):
        CheckpointedTeacher(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"no file .*nowhere"):
        CheckpointedTeacher(network(), tmp_path / "nowhere.safetensors")


def test_other_weights_come_while_it_teaches_and_are_told_apart() -> None:
    teacher = CheckpointedTeacher(network(), cache_bytes=1 << 10)
    teacher.answer(inputs())
    before = teacher.digest
    teacher.load(network(1).state_dict())
    assert torch.equal(teacher.answer(inputs()), network(1).eval()(inputs()))
    assert teacher.digest != before
    assert teacher.digest == CheckpointedTeacher(network(1)).digest


def test_weights_that_something_else_moves_are_noticed() -> None:
    teacher = CheckpointedTeacher(network())
    nn.init.zeros_(teacher.network[4].weight)  # type: ignore[index]
    with pytest.raises(LifecycleError, match="changed the teacher's weights"):
        teacher.answer(inputs())


def test_half_precision_halves_its_matrices_and_little_of_its_answers() -> None:
    plain, half = CheckpointedTeacher(network()), CheckpointedTeacher(network(), precision=torch.bfloat16)
    matrices = 4 * (6 * 8 + 8 * 3)
    assert half.num_bytes == plain.num_bytes - matrices // 2
    assert half.answer(inputs()).dtype == torch.float32
    torch.testing.assert_close(half.answer(inputs()), plain.answer(inputs()), atol=0.02, rtol=0)
    assert half.digest != plain.digest


def test_eight_bits_are_a_quarter_of_its_matrices_and_little_of_its_answers() -> None:
    wide = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64))
    plain, before = CheckpointedTeacher(copy.deepcopy(wide)), [p.dtype for p in wide.parameters()]
    eight = CheckpointedTeacher(wide, int8_weights=True, chunk=2, cache_bytes=1 << 12)
    assert eight.num_bytes < 0.32 * plain.num_bytes
    answer = eight.answer(inputs())
    torch.testing.assert_close(answer, plain.answer(inputs()), atol=0.02, rtol=0)
    assert torch.equal(eight.answer(inputs()), answer)
    digest = eight.digest
    other = {name: value.flip(0) for name, value in plain.network.state_dict().items()}
    eight.load(other)
    assert eight.digest != digest
    assert (eight.answer(inputs()) - answer).abs().max() > 0.1
    eight.load(plain.network.state_dict())
    assert eight.digest == digest
    eight.let_go()
    assert [p.dtype for p in wide.parameters()] == before
    assert all(p.requires_grad for p in wide.parameters())
    torch.testing.assert_close(wide(inputs()), answer)
    eight.freeze()
    assert eight.digest == digest
    assert torch.equal(eight.answer(inputs()), answer)


def test_in_parts_it_answers_the_same() -> None:
    answer = CheckpointedTeacher(network(), chunk=2).answer((inputs(count=7),))
    torch.testing.assert_close(answer, network().eval()(inputs(count=7)))


def test_a_sample_that_comes_again_is_not_asked_again() -> None:
    teacher = CheckpointedTeacher(network(), cache_bytes=1 << 10)
    first = teacher.answer(inputs())
    order = torch.tensor([3, 1, 1, 0])
    assert torch.equal(teacher.answer(inputs()[order]), first[order])
    assert teacher.answers is not None
    assert (teacher.answers.hits, teacher.answers.misses) == (4, 5)
    assert torch.equal(teacher.answer(inputs(2)), network().eval()(inputs(2)))


def test_no_more_is_kept_than_there_is_room_for() -> None:
    teacher = CheckpointedTeacher(network(), cache_bytes=3 * 3 * 4)
    teacher.answer(inputs())
    assert teacher.answers is not None
    assert teacher.answers.num_bytes == 36
    expected = network().eval()(inputs())
    torch.testing.assert_close(teacher.answer(inputs()[:3]), expected[:3])
    torch.testing.assert_close(teacher.answer(inputs()), expected)
    assert (teacher.answers.hits, teacher.answers.misses) == (3, 10)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected torch"):
        CheckpointedTeacher(network(), precision=torch.int8)
    with pytest.raises(ConfigError, match="chunk=0"):
        CheckpointedTeacher(network(), chunk=0)


def test_a_directory_in_the_place_of_a_file_is_told_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match=r"esper\.load\(.*\)\), or what `esper compact .* -o DIR`"):
        CheckpointedTeacher(network(), tmp_path)
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"Give .*model\.safetensors\."):
        CheckpointedTeacher(network(), tmp_path)


def test_it_is_printed_in_one_line_and_gives_its_network_back() -> None:
    model = network()
    teacher = CheckpointedTeacher(model)
    assert str(teacher).startswith("CheckpointedTeacher(Sequential, 99 parameters in 468 bytes, digest ")
    assert teacher.let_go() is model
