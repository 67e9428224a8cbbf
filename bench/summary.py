"""Medians and spreads of repeated figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

Summary = dict[str, dict[str, dict[str, float]]]
"""cell -> figure -> median, min, max, and the number of values."""


def summarise(figures: Mapping[str, Mapping[str, Sequence[float]]]) -> Summary:
    """Of every figure of every cell."""
    return {
        cell: {name: spread(values) for name, values in found.items() if values}
        for cell, found in figures.items()
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": median(values),
        "min": min(values),
        "max": max(values),
        "runs": len(values),
    }


def number(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def shown(row: Mapping[str, float] | None) -> str:
    """``median (min-max)``, the median alone of a single run, a dash for nothing."""
    if row is None:
        return "–"
    if row["runs"] == 1:
        return number(row["median"])
    return f"{number(row['median'])} ({number(row['min'])}–{number(row['max'])})"
