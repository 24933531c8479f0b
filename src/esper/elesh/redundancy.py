"""Channels that carry the same signal: found by correlation, and measured with the best one in their place.

A channel that is a multiple of another can be folded into it: whoever reads it reads the other one instead,
scaled. This is what least-squares reconstruction makes of it when a mask is applied, so its loss is measured
with the substitute in place, not with a hole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy.labels import CONVOLUTIONS, LINEAR, groups_of
from esper.anatomy.mend import Moments
from esper.anatomy.twin import Twin, for_each_row
from esper.arrays import FloatArray, IntArray
from esper.elesh.readings import Reading

_FLAT = 1e-6
"""A channel whose variance is a smaller share of its mean square is constant; it correlates with nothing."""


@dataclass(eq=False)
class ChannelMoments:
    """The moments of the channels of one layer at one reading, over samples and positions."""

    reading: Reading
    coordinates: IntArray
    """Columns of every channel: shape [channels, columns of each]."""
    moments: Moments | None = None

    def add(self, columns: Tensor) -> None:
        """Takes in what was read: shape [rows, columns]."""
        # Each column of a channel is one observation more: [rows, channels, each] to [rows x each,
        # channels].
        rows = columns[:, torch.from_numpy(self.coordinates)].movedim(1, -1).flatten(0, 1)
        seen = Moments.of(rows.cpu())
        self.moments = seen if self.moments is None else self.moments + seen

    def correlation(self) -> FloatArray:
        """Pearson correlation of all pairs: shape [channels, channels], NaN where a channel is constant."""
        width = len(self.coordinates)
        if self.moments is None:
            return np.full((width, width), np.nan)
        # [channels, channels] around the mean; [channels] around zero.
        covariance = self.moments.spread(self.moments.mean).numpy()
        square = self.moments.spread(None).diagonal().numpy()
        variance = covariance.diagonal().copy()
        # A constant correlates with nothing: as NaN it passes through the division.
        variance[variance <= _FLAT * square] = np.nan
        scale = np.sqrt(variance)
        cosines: FloatArray = np.clip(covariance / np.outer(scale, scale), -1.0, 1.0)
        return cosines

    def slope(self, leaders: IntArray) -> FloatArray:
        """The multiple of its leader that is nearest to each channel, least squares: shape [channels]."""
        own, slopes = np.arange(leaders.size), np.ones(leaders.size)
        if self.moments is None:
            return slopes
        # Least squares through the origin: <own, leader> / <leader, leader>, or 1 where the leader is
        # silent.
        products = self.moments.products.numpy()
        leader = np.where(leaders >= 0, leaders, own)
        square = products[leader, leader]
        np.divide(products[own, leader], square, out=slopes, where=square > 0)
        return slopes


def leaders_of(
    correlations: Sequence[FloatArray], importance: FloatArray, threshold: float
) -> tuple[IntArray, FloatArray]:
    """Sorts the channels of one layer into groups that carry the same signal.

    Every member correlates with its leader at `threshold` or above, in size and at every reading; the leader
    is the most important of them. Deterministic.

    Args:
        correlations: of the same channels at every place where they are read, shape [channels, channels].
        importance: of every channel, shape [channels]; NaN counts as none.
        threshold: least correlation, such as 0.95.

    Returns:
        For every channel the number of its leader, -1 where it leads or stands alone, and its correlation
        with that leader (NaN where there is none): two arrays of shape [channels].
    """
    each = np.stack(correlations)
    # [channels, channels]: alike is only what is alike wherever it is read. A constant counts as 0.
    weakest = np.nan_to_num(np.abs(each).min(axis=0))
    signs = np.sign(np.nan_to_num(each[0]))
    np.fill_diagonal(weakest, 0.0)
    leaders = np.full(importance.size, -1, np.int64)
    leads = np.zeros(importance.size, np.bool_)
    related = weakest >= threshold
    candidates = np.flatnonzero(related.any(axis=1))
    # Greedy, the most important first: one that nobody leads takes in all its free relations. A leader is
    # never led, so no channel is folded into one that is itself folded.
    for channel in candidates[np.argsort(-np.nan_to_num(importance[candidates]), kind="stable")]:
        if leaders[channel] < 0:
            joins = related[channel] & (leaders < 0) & ~leads
            leads[channel] = bool(joins.any())
            leaders[joins] = channel
    known = leaders >= 0
    # With its sign: a channel may be the negative of its leader.
    strength = np.full(importance.size, np.nan)
    strength[known] = (weakest * signs)[np.flatnonzero(known), leaders[known]]
    return leaders, strength


def can_take_over(twin: Twin, reading: Reading) -> bool:
    """Whether reconstruction can make this reader read one channel for another: a dense linear map."""
    node = list(twin.program.graph.nodes)[reading.position]
    weight = node.args[1] if reading.argument == 0 and len(node.args) > 1 else None
    is_parameter = isinstance(weight, fx.Node) and weight.name in twin.names
    is_dense = node.target is LINEAR or (node.target in CONVOLUTIONS and groups_of(node) == 1)
    return is_parameter and is_dense


def folded_losses(
    twin: Twin,
    state: Mapping[str, Tensor],
    batch: Any,
    moments: Sequence[ChannelMoments],
    leaders: IntArray,
    channels: IntArray,
) -> Tensor:
    """Loss when each of `channels` alone is read as a multiple of its leader: shape [len(channels)].

    Args:
        twin: the network with its loss.
        state: its tensors.
        batch: a held-out batch.
        moments: of the layer, at every place where it is read.
        leaders: leader of every channel of the layer, -1 for none; `channels` have one.
        channels: numbers within the layer.
    """
    # [asked, channels of the layer], 1 at the asked channel.
    rows = torch.zeros(len(channels), leaders.size)
    rows[torch.arange(len(channels)), torch.from_numpy(channels)] = 1.0
    substitutes = [_substitute(found, leaders) for found in moments]

    def one(row: Tensor) -> Tensor:
        gates = {place: change(row) for place, change in substitutes}
        loss: Tensor = twin.run(state, batch, gates)[0]
        return loss.reshape(())

    with torch.no_grad():
        return for_each_row(one, rows)


def _substitute(
    moments: ChannelMoments, leaders: IntArray
) -> tuple[tuple[int, int], Callable[[Tensor], Callable[[Tensor], Tensor]]]:
    """For a row that is 1 at one channel: what the reading sees when that channel is folded."""
    reading, coordinates = moments.reading, moments.coordinates
    # For every column of the reading: the column that is read in its place, the factor, and the channel that
    # it belongs to (-1 for none).
    source, scale = np.arange(reading.units.size), np.ones(reading.units.size, np.float32)
    owner = np.full(reading.units.size, -1, np.int64)
    owner[coordinates] = np.arange(len(coordinates))[:, None]
    followers = np.flatnonzero(leaders >= 0)
    source[coordinates[followers]] = coordinates[leaders[followers]]
    scale[coordinates[followers]] = moments.slope(leaders)[followers][:, None]
    columns, slope, channel = (torch.from_numpy(array) for array in (source, scale, owner))

    def change(row: Tensor) -> Callable[[Tensor], Tensor]:
        is_folded = torch.cat([row, row.new_zeros(1)])[channel]  # -1 reads the last entry: no channel

        def read(value: Tensor) -> Tensor:
            seen = reading.columns(value)
            # The difference that folding makes, at the folded channel alone.
            shift = (seen[:, columns] * slope.to(seen.dtype) - seen) * is_folded.to(seen.dtype)
            return value + reading.from_columns(shift, value)

        return read

    return reading.place, change
