"""Batches of data: held out, split, merged, and moved to a device."""

from esper.batches.held_out import HeldOut, hold_out, merged, repeated, resized, samples

__all__ = ["HeldOut", "hold_out", "merged", "repeated", "resized", "samples"]
