"""Samples are told apart by their content."""

from __future__ import annotations

import torch

from esper.kasmina.answers import Answers


def test_equal_samples_have_equal_keys_and_others_have_not() -> None:
    answers = Answers(0)
    pictures = torch.randint(0, 2, (500, 1, 3, 3)).float()  # few enough that some are equal
    keys = answers.keys([pictures])
    assert keys is not None
    for a, row in zip(keys, pictures, strict=True):
        assert [a == b for b in keys] == (pictures == row).flatten(1).all(1).tolist()


def test_every_tensor_of_a_batch_counts_and_every_bit() -> None:
    answers, tokens = Answers(0), torch.arange(12).view(4, 3)
    mask = torch.ones(4, 3, dtype=torch.bool)
    before = answers.keys([tokens, mask])
    mask[2, 1] = False
    after = answers.keys([tokens, mask])
    assert before is not None
    assert after is not None
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
    assert answers.keys([torch.zeros(1, 2)]) != answers.keys([torch.tensor([[0.0, -0.0]])])


def test_long_samples_are_hashed_in_stretches() -> None:
    answers, long = Answers(0), torch.zeros(2, 3 * (1 << 16) + 5)
    long[1, -1] = 1
    keys = answers.keys([long])
    assert keys is not None
    assert keys[0] != keys[1]


def test_what_has_no_axis_of_samples_has_no_keys() -> None:
    answers = Answers(0)
    assert answers.keys([torch.zeros(3, 2), torch.zeros(2)]) is None
    assert answers.keys([torch.tensor(1.0)]) is None
    assert answers.keys([]) is None
