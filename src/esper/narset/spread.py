"""What people are told of a summary."""

from __future__ import annotations

from esper.narset.summary import Summary
from esper.nissa import Spread


def spread_of(summary: Summary) -> Spread:
    """Its numbers; quantiles are within 1/128 of themselves."""
    return Spread(
        count=summary.finite,
        not_finite=summary.not_finite,
        total=summary.total,
        mean=summary.mean,
        least=summary.least,
        most=summary.most,
        p50=summary.quantile(0.5),
        p95=summary.quantile(0.95),
        p99=summary.quantile(0.99),
    )
