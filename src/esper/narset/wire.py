"""Summaries of a region as the message that carries them, and back without losing a bit."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise

from esper.errors import ContractError
from esper.leyline.wire import VERSION, messages, parsed
from esper.narset.summary import Summary


def message_of(
    region: str, summaries: Mapping[str, Summary], dropped: int, senders: int = 1
) -> messages.RegionSummary:
    """What a region sends of itself, or of several processes that it is the sum of."""
    metrics = {name: _metric(one) for name, one in summaries.items()}
    return messages.RegionSummary(
        version=VERSION, region=region, senders=senders, metrics=metrics, dropped=dropped
    )


def summaries_of(raw: bytes) -> tuple[str, Mapping[str, Summary], int]:
    """The region, its summaries by name, and the values that it has dropped.

    Raises:
        ContractError: the bytes are no such message, or contradict themselves.
    """
    message = parsed(messages.RegionSummary, raw)
    return message.region, {name: _read(name, one) for name, one in message.metrics.items()}, message.dropped


def _metric(summary: Summary) -> messages.MetricSummary:
    buckets = sorted(summary.buckets)
    return messages.MetricSummary(
        count=summary.finite,
        sum=summary.total,
        sum_of_squares=summary.square_parts[0] if summary.square_parts else 0.0,
        min=summary.least,
        max=summary.most,
        not_finite=summary.not_finite,
        sum_rest=summary.parts[1:],
        sum_of_squares_rest=summary.square_parts[1:],
        bucket_steps=[after - before for before, after in pairwise([0, *buckets])],
        bucket_counts=[summary.buckets[bucket] for bucket in buckets],
    )


def _read(name: str, metric: messages.MetricSummary) -> Summary:
    counts = list(metric.bucket_counts)
    is_whole = len(counts) == len(metric.bucket_steps) and sum(counts) == metric.count
    if (counts or metric.bucket_steps) and not is_whole:
        raise ContractError(
            f"The summary of {name!r} counts {metric.count} values, and its buckets hold {sum(counts)} in "
            f"{len(metric.bucket_steps)}: it was damaged or is from a faulty writer. Leave it out."
        )
    return Summary(
        finite=metric.count,
        not_finite=metric.not_finite,
        least=metric.min if metric.HasField("min") else None,
        most=metric.max if metric.HasField("max") else None,
        parts=tuple(part for part in (metric.sum, *metric.sum_rest) if part),
        square_parts=tuple(part for part in (metric.sum_of_squares, *metric.sum_of_squares_rest) if part),
        buckets=dict(zip(accumulate(metric.bucket_steps), counts, strict=True)),
    )
