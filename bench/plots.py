"""Plots for docs and README: bars with spreads, conditions below, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bench.catalogue import BY_NAME, CELLS
from bench.summary import Summary, number

#: File -> title and the figures of which the best is shown.
_PLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "drain": ("Jobs drained per second", ("drain_per_second", "bulk_drain_per_second")),
    "steady": ("Jobs per second, submit and drain at once", ("steady_per_second",)),
    "cpu": ("CPU seconds per 1,000 jobs, all processes", ("cpu_total", "bulk_cpu_total")),
    "latency": ("Submit to body, median in ms, at 20 jobs/s", ("body_p50_ms",)),
}
_LESS_IS_BETTER = {"cpu", "latency"}
_OURS, _THEIRS = "#1f6f8b", "#b8bec6"


def draw(summary: Summary, conditions: Mapping[str, object], directory: Path) -> list[Path]:
    """One file for each plot that has something to show; returns the files."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same file, so that a plot in the repository changes with them alone.
    mpl.rcParams["svg.hashsalt"] = "interlock"
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, (title, figures) in _PLOTS.items():
        bars = best(summary, figures, least=name in _LESS_IS_BETTER)
        if bars:
            files.append(directory / f"bench-{name}.svg")
            _draw_one(bars, title, _caption(conditions), files[-1])
    return files


def best(
    summary: Summary, figures: tuple[str, ...], *, least: bool
) -> list[tuple[str, dict[str, float]]]:
    """Each queue with the better of its figures, the best last, as bars are drawn upwards."""
    found: list[tuple[str, dict[str, float]]] = []
    for cell in CELLS:
        rows = [row for name in figures if (row := summary.get(cell.name, {}).get(name))]
        if rows and "enqueue_per_second" in summary[cell.name]:
            pick = min if least else max
            found.append((cell.name, pick(rows, key=lambda row: row["median"])))
    return sorted(found, key=lambda bar: bar[1]["median"], reverse=least)


def _draw_one(
    bars: list[tuple[str, dict[str, float]]], title: str, caption: str, file: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.34 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(bars))
    values = [row["median"] for _, row in bars]
    errors = [
        [row["median"] - row["min"] for _, row in bars],
        [row["max"] - row["median"] for _, row in bars],
    ]
    colours = [_OURS if BY_NAME[name].kind == "ours" else _THEIRS for name, _ in bars]
    axes.barh(places, values, color=colours, xerr=errors, ecolor="#555555")
    axes.set_yticks(places, [BY_NAME[name].title for name, _ in bars])
    for place, value in zip(places, values, strict=True):
        axes.annotate(number(value), (value, place), (4, 5), textcoords="offset points", fontsize=8)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption, fontsize=7)
    figure.savefig(file, metadata={"Date": None})


def _caption(conditions: Mapping[str, object]) -> str:
    return (
        f"{conditions['cores']} cores for everything, PostgreSQL with fsync, two worker processes,"
        f" no-op jobs; median, least and most of {conditions['repeats']} interleaved runs"
    )
