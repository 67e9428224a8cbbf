"""The picture of a profile: small multiples, drawn without pyplot and without global state."""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

import matplotlib.dates
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import RcKeyType

from jobs.handlers.profiling.report import ColumnProfile, Histogram, ProfileReport, Scalar

# Matplotlib annotates all but this module.
_dates: Any = matplotlib.dates

MAX_PANELS: Final = 12
_ACROSS: Final = 3
_PANEL_INCHES: Final = (3.7, 2.35)
_PLOT_INCHES: Final = (2.98, 1.3)
_GUTTER_INCHES: Final = 0.32
_HEADER_INCHES: Final = 0.85
_TITLE_CHARS: Final = 30
_LABEL_CHARS: Final = 30
_BARS: Final = 5

_INK: Final = "#0f172a"
_MUTED: Final = "#64748b"
_RULE: Final = "#e2e8f0"
_TRACK: Final = "#f1f5f9"
_COLORS: Final = {
    "number": "#4f46e5",
    "temporal": "#0891b2",
    "text": "#0d9488",
    "boolean": "#0d9488",
    "other": "#64748b",
}
_STYLE: Final[dict[RcKeyType, Any]] = {
    # A fixed salt and no date make equal profiles equal bytes.
    "svg.hashsalt": "interlock",
    # Text stays text: small, searchable, and drawn with the reader's own fonts and scripts.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    # Names and values are data; a dollar sign in them must not start a formula.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.unicode_minus": True,
}
# matplotlib measures with the one font that it brings along; readers see one of their own, all of
# them narrower. Naming these to matplotlib would only make it complain that they are not here.
_MEASURED_FONT: Final = b"font-family: 'DejaVu Sans', sans-serif"
_SHOWN_FONTS: Final = (
    b"font-family: Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"
)
# The style is set through matplotlib's process-wide settings.
_style_lock = threading.Lock()


def draw(report: ProfileReport, kind: str = "svg") -> bytes | None:
    """The picture as SVG (or another format of matplotlib's); None if nothing can be drawn.

    Shows the first 12 columns that have a histogram or repeated values, in the file's order.
    """
    panels = [column for column in report.columns if _drawable(column)]
    if not panels:
        return None
    svg, out = kind == "svg", io.BytesIO()
    with _style_lock, warnings.catch_warnings():
        # Fonts and glyphs missing here are the viewer's business, see svg.fonttype.
        warnings.simplefilter("ignore")
        with rc_context(_STYLE):
            figure = _figure(report, panels[:MAX_PANELS], len(panels))
            figure.savefig(out, format=kind, metadata={"Date": None} if svg else None)
    return out.getvalue().replace(_MEASURED_FONT, _SHOWN_FONTS) if svg else out.getvalue()


def _drawable(column: ColumnProfile) -> bool:
    if column.histogram is not None or not column.top:
        return column.histogram is not None
    # Bars for a few of many values that all occur once, such as names or keys, say nothing.
    return column.top[0].count > 1 or column.distinct <= _BARS


def _figure(report: ProfileReport, panels: Sequence[ColumnProfile], drawable: int) -> Figure:
    down = math.ceil(len(panels) / _ACROSS)
    width = _ACROSS * _PANEL_INCHES[0] + 0.3
    height = down * _PANEL_INCHES[1] + _HEADER_INCHES + 0.1
    figure = Figure(figsize=(width, height), facecolor="white")
    _header(figure, report, len(panels), drawable)
    for i, column in enumerate(panels):
        left = 0.3 + _GUTTER_INCHES + (i % _ACROSS) * _PANEL_INCHES[0]
        bottom = height - _HEADER_INCHES - (i // _ACROSS + 1) * _PANEL_INCHES[1] + 0.45
        box = (left / width, bottom / height, _PLOT_INCHES[0] / width, _PLOT_INCHES[1] / height)
        _panel(figure.add_axes(box), column)
    return figure


def _header(figure: Figure, report: ProfileReport, shown: int, drawable: int) -> None:
    width, height = figure.get_size_inches()
    rows = f"{report.rows:,} row{'' if report.rows == 1 else 's'}"
    columns = f"{report.column_count:,} column{'' if report.column_count == 1 else 's'}"
    detail = f"{report.format} \N{MIDDLE DOT} {_size(report.bytes)}"
    if shown < drawable:
        detail += f" \N{MIDDLE DOT} the first {shown} of {drawable} drawable columns"
    x = 0.3 / width
    figure.text(
        x, 1 - 0.36 / height, f"{rows} \N{MULTIPLICATION SIGN} {columns}",
        fontsize=14, fontweight="bold", color=_INK,
    )  # fmt: skip
    figure.text(x, 1 - 0.6 / height, detail, fontsize=9, color=_MUTED)


def _panel(axes: Axes, column: ColumnProfile) -> None:
    """One column: its name, a line of facts, and bars."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_RULE)
    axes.tick_params(colors=_MUTED, labelsize=7.5, length=0, pad=4)
    left = -_GUTTER_INCHES / _PLOT_INCHES[0]
    axes.text(
        left, 1.23, _label(column.name, _TITLE_CHARS), transform=axes.transAxes,
        fontsize=10.5, fontweight="bold", color=_INK,
    )  # fmt: skip
    axes.text(left, 1.085, _facts(column), transform=axes.transAxes, fontsize=7.5, color=_MUTED)
    if column.histogram is not None:
        _draw_histogram(axes, column, column.histogram)
    else:
        _draw_top(axes, column)


def _draw_histogram(axes: Axes, column: ColumnProfile, histogram: Histogram) -> None:
    edges = [_position(edge) for edge in histogram.edges]
    if edges[0] == edges[-1]:
        margin = abs(edges[0]) * 0.005 or 0.5
        edges = [edges[0] - margin, edges[0] + margin]
    widths = [right - left for left, right in pairwise(edges)]
    axes.bar(
        edges[:-1], histogram.counts, widths, align="edge", zorder=2,
        color=_COLORS[column.kind], edgecolor="white", linewidth=0.6 if len(widths) <= 60 else 0,
    )  # fmt: skip
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(1, *histogram.counts) * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _compact(value)))
    axes.grid(axis="y", color=_RULE, linewidth=0.7, zorder=0)
    if column.kind == "temporal":
        _date_axis(axes)
        return
    whole = isinstance(column.minimum, int)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole, min_n_ticks=1 if whole else 2))
    if edges[-1] - edges[0] > max(abs(edges[0]), abs(edges[-1])) * 1e-3:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _compact(value)))


def _date_axis(axes: Axes) -> None:
    locator = _dates.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(_dates.ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=_MUTED, fontsize=7)


def _draw_top(axes: Axes, column: ColumnProfile) -> None:
    shown = column.top[:_BARS]
    most = max(value.count for value in shown)
    # These bars carry their labels inside and have no axis: they begin below the title.
    start = -_GUTTER_INCHES / _PLOT_INCHES[0]
    length = 1 - start
    for row, value in enumerate(shown):
        bar: dict[str, Any] = {"height": 0.8, "left": start, "clip_on": False}
        axes.barh(row, length, color=_TRACK, zorder=1, **bar)
        axes.barh(row, length * value.count / most, color=_COLORS[column.kind], alpha=0.3, **bar)
        axes.text(
            start + 0.02, row, _label(_spoken(value.value), _LABEL_CHARS),
            fontsize=8, color=_INK, va="center_baseline", zorder=3,
        )  # fmt: skip
        axes.text(
            0.98, row, f"{value.count:,}",
            fontsize=8, color=_MUTED, va="center_baseline", ha="right", zorder=3,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(shown), _BARS) - 0.6, -0.4)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])


def _facts(column: ColumnProfile) -> str:
    about = "" if column.distinct_exact else "~"
    facts = [_type(column), f"{about}{column.distinct:,} distinct"]
    if column.missing:
        facts.append(f"{column.missing:,} missing")
    median = (column.quantiles or {}).get("0.5")
    if isinstance(median, float):
        facts.append(f"median {_compact(float(f'{median:.4g}'))}")
    return " \N{MIDDLE DOT} ".join(facts)


def _type(column: ColumnProfile) -> str:
    if column.kind == "number":
        return "integer" if isinstance(column.minimum, int) else "number"
    if column.kind == "temporal":
        return "date" if column.type == "DATE" else "timestamp"
    return _label(column.type.lower(), 14) if column.kind == "other" else column.kind


def _position(edge: float | str) -> float:
    if not isinstance(edge, str):
        return float(edge)
    return float(_dates.date2num(datetime.fromisoformat(edge).replace(tzinfo=None)))


def _label(text: str, limit: int) -> str:
    """``text`` on one line and without characters that XML cannot hold."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    plain = " ".join(plain.split()) or "(blank)"
    return plain if len(plain) <= limit else plain[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _spoken(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else f"{value:g}"


def _compact(value: float) -> str:
    """A tick label of a few characters; four-digit numbers stay whole, they may be years."""
    for size, mark in ((1e12, ""), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            shown = f"{value:.3g}" if not mark else f"{value / (1e3 if mark == 'k' else size):.4g}"
            return shown + mark
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
