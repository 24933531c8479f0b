"""What a teacher answers, and how far an output is from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.errors import ConfigError, EvidenceError
from esper.kasmina.distillation import StaticKDLoss, Teacher, distillation_loss


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def teacher_of(model: nn.Module) -> Teacher:
    sample = (torch.randn(4, 6), torch.tensor([0, 1, 2, 0]))
    twin = Twin.of(trace(model, sample, nn.CrossEntropyLoss()))
    return Teacher(twin, {name: tensor.clone() for name, tensor in model.state_dict().items()})


def scores(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_teacher_answers_as_its_network_does_in_eval_mode_whatever_becomes_of_that_network() -> None:
    model = network()
    teacher, inputs = teacher_of(model), scores(5, 6, seed=1)
    expected = model.eval()(inputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    answer = teacher.output(inputs, torch.zeros(5, dtype=torch.long))
    assert answer is not None
    assert not answer.requires_grad
    torch.testing.assert_close(answer, expected)


def test_a_teacher_has_no_answer_for_sizes_that_its_graph_is_not_for() -> None:
    assert teacher_of(network()).output(scores(5, 7, seed=1), torch.zeros(5, dtype=torch.long)) is None


def test_inputs_that_are_built_differently_are_refused() -> None:
    with pytest.raises(EvidenceError, match="not built like the sample"):
        teacher_of(network()).output({"x": scores(5, 6, seed=1)}, torch.zeros(5, dtype=torch.long))


def test_nothing_is_to_be_learned_from_equal_scores() -> None:
    output = scores(5, 3, seed=1).requires_grad_()
    lesson = distillation_loss(output, output.detach(), torch.zeros(5, dtype=torch.long), 2.0)
    lesson.backward()
    assert lesson.item() == pytest.approx(0, abs=1e-6)
    assert output.grad is not None
    assert output.grad.abs().max() < 1e-7


def test_the_gradient_is_the_difference_of_softened_classes_times_the_temperature() -> None:
    output, taught = scores(5, 3, seed=1).requires_grad_(), scores(5, 3, seed=2)
    distillation_loss(output, taught, torch.zeros(5, dtype=torch.long), 4.0).backward()
    expected = (F.softmax(output.detach() / 4, 1) - F.softmax(taught / 4, 1)) * 4 / 5
    torch.testing.assert_close(output.grad, expected)


@pytest.mark.parametrize(("shape", "target"), [((2, 4, 5), (2, 5)), ((2, 5, 4), (2, 5))])
def test_classes_are_found_behind_the_samples_and_at_the_end(
    shape: tuple[int, ...], target: tuple[int, ...]
) -> None:
    output, taught = scores(*shape, seed=1), scores(*shape, seed=2)
    axis = shape.index(4)
    flat, other = (t.movedim(axis, -1).reshape(-1, 4) for t in (output, taught))
    lesson = distillation_loss(output, taught, torch.zeros(target, dtype=torch.long), 2.0)
    torch.testing.assert_close(
        lesson, distillation_loss(flat, other, torch.zeros(len(flat), dtype=torch.long), 2.0)
    )


def test_numbers_that_are_no_classes_are_compared_by_their_squares() -> None:
    output, taught = scores(5, 3, seed=1), scores(5, 3, seed=2)
    assert distillation_loss(output, taught, scores(5, 3, seed=3), 2.0) == F.mse_loss(output, taught)


def test_what_is_padded_or_no_number_teaches_nothing() -> None:
    output, taught = scores(5, 3, seed=1).requires_grad_(), scores(5, 3, seed=2)
    taught[1, 2] = torch.nan
    target = torch.tensor([0, 1, 2, -100, 1])
    lesson = distillation_loss(output, taught, target, 4.0)
    sound = [0, 2, 4]
    torch.testing.assert_close(lesson, distillation_loss(output[sound], taught[sound], target[sound], 4.0))
    lesson.backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert not output.grad[[1, 3]].any()
    nothing = distillation_loss(output, taught, torch.full((5,), -100), 4.0)
    assert nothing.item() == 0


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[5, 4\].*\[5, 3\]"):
        distillation_loss(scores(5, 3, seed=1), scores(5, 4, seed=2), torch.zeros(5, dtype=torch.long), 4.0)


def test_the_joined_loss_is_the_given_share_of_both() -> None:
    output, taught, target = scores(5, 3, seed=1), scores(5, 3, seed=2), torch.tensor([0, 1, 2, 0, 1])
    own = F.cross_entropy(output, target)
    expected = 0.7 * own + 0.3 * distillation_loss(output, taught, target, 4.0)
    torch.testing.assert_close(StaticKDLoss()(own, output, taught, target), expected)
    joined = StaticKDLoss(weight=0.0)(own, output, taught, target)
    assert torch.equal(joined, own)
