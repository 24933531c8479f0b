"""Live tensors change their size and stay what they are."""

from __future__ import annotations

import torch
from torch import nn

from esper.anatomy.proof.tensors import Undo, resize, select


def test_a_loss_that_is_still_held_does_not_break_the_next_backward_pass() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    held = (weight * 2).sum()  # keeps the node that accumulates this gradient alive, with its old shape
    held.backward()
    resize(weight, weight.detach()[:2].clone(), Undo())
    (weight * 3).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((2, 3), 3.0))
    assert held.requires_grad


def test_undoing_brings_content_and_gradient_back() -> None:
    weight = nn.Parameter(torch.randn(4, 3))
    weight.sum().backward()
    content, gradient = weight.detach(), weight.grad
    undo = Undo()
    resize(weight, torch.zeros(2, 3), undo)
    assert weight.grad is None
    undo.run()
    assert torch.equal(weight, content)
    assert weight.grad is gradient
    undo.run()  # nothing is left to take back
    assert weight.shape == (4, 3)


def test_steps_are_taken_back_last_first() -> None:
    seen: list[int] = []
    undo = Undo()
    for number in range(3):
        undo.add(lambda number=number: seen.append(number))  # type: ignore[misc]  # a default binds the number
    undo.run()
    assert seen == [2, 1, 0]


def test_hooks_on_a_resized_parameter_still_run() -> None:
    weight = nn.Parameter(torch.ones(4))
    seen: list[torch.Size] = []
    weight.register_hook(lambda gradient: seen.append(gradient.shape))
    weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    resize(weight, torch.ones(2), Undo())
    weight.sum().backward()
    assert seen == [torch.Size([2]), torch.Size([2])]


def test_a_buffer_and_other_types_can_be_resized() -> None:
    for content in (torch.arange(4), torch.ones(4, dtype=torch.float64), torch.ones(4, dtype=torch.bfloat16)):
        buffer = content.clone()
        resize(buffer, content[:2].clone(), Undo())
        assert torch.equal(buffer, content[:2])


def test_selecting_keeps_the_memory_format() -> None:
    tensor = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    kept = {0: torch.tensor([0, 2]), 1: torch.tensor([1, 2, 5])}
    part = select(tensor, kept)
    assert part.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(part, tensor[[0, 2]][:, [1, 2, 5]])
    assert select(tensor.contiguous(), kept).is_contiguous()


def test_of_a_sparse_gradient_what_stays_is_sparse_too() -> None:
    weight = nn.Embedding(5, 4, sparse=True).weight
    nn.functional.embedding(torch.tensor([1, 3, 1]), weight, sparse=True).square().sum().backward()
    assert weight.grad is not None
    stays = torch.tensor([0, 3])
    left = select(weight.grad, {1: stays})
    assert left.is_sparse
    assert left.sparse_dim() == 1
    assert torch.equal(left.to_dense(), weight.grad.to_dense()[:, stays])
