"""The demo's data is what it says."""

from __future__ import annotations

import torch

from esper.cli.demo.digits import NUM_IMAGES, load_digits


def test_the_digits_are_split_into_three_parts_that_share_no_image() -> None:
    digits = load_digits(seed=0)
    splits = (digits.train, digits.probe, digits.test)
    assert [len(split) for split in splits] == [3_500, 500, 1_000]
    images = torch.cat([split.images for split in splits]).flatten(1)
    assert len(torch.unique(images, dim=0)) == NUM_IMAGES
    assert torch.cat([split.labels for split in splits]).bincount().tolist() == [500] * 10
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-4


def test_the_seed_alone_decides_the_split() -> None:
    first, again, other = load_digits(seed=3), load_digits(seed=3), load_digits(seed=4)
    assert torch.equal(first.test.images, again.test.images)
    assert not torch.equal(first.test.labels, other.test.labels)


def test_batches_hold_every_image_once_in_the_order_that_was_asked_for() -> None:
    split = load_digits(seed=0).probe
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    batches = split.batches(64, order)
    assert [len(labels) for _, labels in batches] == [64] * 7 + [52]
    assert torch.equal(torch.cat([labels for _, labels in batches]), split.labels[order])
