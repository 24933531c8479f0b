"""Faults: kills, power cuts, failing disks, flipped bits."""
