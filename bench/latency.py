"""Percentiles of durations."""

from __future__ import annotations

from collections.abc import Sequence


def percentiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds, by the nearest rank."""
    ranked = sorted(seconds)
    last = len(ranked) - 1
    return {
        f"{name}_p{percent}_ms": 1000 * ranked[round(percent / 100 * last)]
        for percent in (50, 95, 99)
    }
