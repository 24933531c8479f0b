"""Batches of data: taken apart, held out, split, merged, and moved to a device."""

from esper.batches.batch import (
    beside,
    device_of,
    divided,
    first_samples,
    merged,
    on_device,
    picked,
    repeated,
    resized,
    samples,
    sizes_of,
    varying_axes,
)
from esper.batches.classes import class_axis
from esper.batches.exchanged import with_targets_of
from esper.batches.held_out import HeldOut, first_batches, hold_out
from esper.batches.likeness import is_single, other_kind
from esper.batches.splitting import plain, split_sample, splits, target_of

__all__ = [
    "HeldOut",
    "beside",
    "class_axis",
    "device_of",
    "divided",
    "first_batches",
    "first_samples",
    "hold_out",
    "is_single",
    "merged",
    "on_device",
    "other_kind",
    "picked",
    "plain",
    "repeated",
    "resized",
    "samples",
    "sizes_of",
    "split_sample",
    "splits",
    "target_of",
    "varying_axes",
    "with_targets_of",
]
