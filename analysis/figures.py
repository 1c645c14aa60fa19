"""The figures of a report as SVG text, the same bytes for the same merged file.

Colors are fixed values in the files; `inline` turns them into the page's CSS variables, so that
a figure follows the page into dark mode and print.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.load import CellRow, Study, labels
from analysis.stats import Score

INK, MUTED, LINE, PAPER = "#1b2430", "#667085", "#d5dae1", "#ffffff"
HEADS = {"trained": "#0868ac", "frozen": "#c4500b"}
"""Blue and vermilion: apart for every common color vision, and by marker and lightness too."""
VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"} | {
    color: f"--{heads}" for heads, color in HEADS.items()
}

_MARKERS = {"trained": "o", "frozen": "D"}
_ROW_INCHES, _WIDTH_INCHES = 0.34, 9.6
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glm-grid",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
}

Scores = Mapping[tuple[str, str], Score]
Rows = dict[tuple[str, str], list[CellRow]]


def draw(study: Study, measured: Scores) -> dict[str, str]:
    """All figures of a study by name, as SVG text; none where there are no cells."""
    if not study.cells:
        return {}
    rows = _rows(study)
    with mpl.rc_context(_STYLE):
        figures = {"balanced_accuracy": _balanced_accuracy(study, rows, measured)}
        for backbone in dict.fromkeys(backbone for backbone, _ in rows):
            mine = {label: cells for (of, label), cells in rows.items() if of == backbone}
            figures[f"learning_curves.{backbone}"] = _learning_curves(mine)
        figures["cost"] = _cost(rows)
        return {name: _svg(figure) for name, figure in figures.items()}


def inline(svg: str, *, name: str) -> str:
    """The SVG as part of an HTML page: its own ids, the page's colors, nothing that points out.

    Parameters
    ----------
    name
        Prefix of every id, unique on the page.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg (.*?)width="[^"]*"', r'<svg role="img" \1', svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg


def _rows(study: Study) -> Rows:
    """Cells by (backbone, label), in the study's order: one row of a figure each."""
    short = labels(study)
    rows: Rows = {}
    for cell in study.cells:
        rows.setdefault((cell.backbone, short[cell.cell_id]), []).append(cell)
    return rows


def _balanced_accuracy(study: Study, rows: Rows, measured: Scores) -> Figure:
    """Dots and intervals, one panel per level."""
    figure, panels = _row_panels(rows, study.levels)
    for panel, level in zip(panels, study.levels, strict=True):
        for cell, y in _positions(rows):
            score = measured[cell.cell_id, level]
            color = HEADS[cell.heads]
            panel.plot([100 * score.low, 100 * score.high], [y, y], color=color, linewidth=1.6)
            _dot(panel, 100 * score.value, y, heads=cell.heads)
        chance = 100 * measured[study.cells[0].cell_id, level].chance
        panel.axvline(chance, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
        panel.set(title=level, xlim=(0, 100), xlabel="balanced accuracy, %")
    _legend(figure, study.cells, extra=[(_dashed(MUTED), "chance")])
    return figure


def _cost(rows: Rows) -> Figure:
    """Seconds per epoch and peak memory."""
    figure, (time, memory) = _row_panels(rows, ("seconds per epoch", "peak memory, GiB"))
    for cell, y in _positions(rows):
        seconds = cell.epochs["train_s"]
        color = HEADS[cell.heads]
        time.plot(seconds, [y] * len(seconds), "|", color=color, markersize=7, alpha=0.55)
        _dot(time, cell.epoch_s, y, heads=cell.heads)
        peak_gib = cell.peak_bytes / 2**30
        memory.plot([0, peak_gib], [y, y], color=color, linewidth=1.2, alpha=0.5)
        _dot(memory, peak_gib, y, heads=cell.heads)
    for panel in (time, memory):
        panel.set_xlim(left=0)
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6))
    _legend(figure, [cell for cells in rows.values() for cell in cells])
    return figure


def _learning_curves(rows: Mapping[str, Sequence[CellRow]]) -> Figure:
    """Train and validation loss per epoch, one small panel per label, on common axes."""
    n_lines = math.ceil(len(rows) / 5)
    n_columns = math.ceil(len(rows) / n_lines)
    figure = Figure(figsize=(_WIDTH_INCHES, 1.9 * n_lines + 0.6), layout="constrained")
    grid = figure.subplots(n_lines, n_columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel, (label, cells) in zip(panels, rows.items(), strict=False):
        for cell in cells:
            epochs, color = cell.epochs["epoch"] + 1, HEADS[cell.heads]
            train, validation = cell.epochs["train_loss"], cell.epochs["validation_loss"]
            panel.plot(epochs, train, color=color, linewidth=1.1, linestyle=(0, (3, 1.5)))
            panel.plot(epochs, validation, color=color, linewidth=1.8)
            best = cell.best_epoch
            _dot(panel, epochs[best], validation[best], heads=cell.heads)
        panel.set_title(label)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    for panel in panels[len(rows) - n_columns : len(rows)]:
        panel.tick_params(labelbottom=True)
    for panel in panels[len(rows) :]:
        panel.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("loss, nat", fontsize=9)
    lines = [(Line2D([], [], color=INK, linewidth=1.8), "validation"), (_dashed(INK), "train")]
    _legend(figure, [cell for cells in rows.values() for cell in cells], extra=lines)
    return figure


def _row_panels(rows: Rows, titles: Sequence[str]) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side over the same rows, first row on top, a line between backbones."""
    height = _ROW_INCHES * len(rows) + 1.3
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout=layout)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    several = len({backbone for backbone, _ in rows}) > 1
    names = [f"{backbone}  {label}" if several else label for backbone, label in rows]
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        panel.set_yticks(range(len(rows)), names)
        panel.tick_params(length=0)
        panel.grid(visible=False, axis="y")
        for index in range(0, len(rows), 2):
            panel.axhspan(index - 0.5, index + 0.5, color=LINE, alpha=0.28, linewidth=0, zorder=0)
        backbones = [backbone for backbone, _ in rows]
        for index, (above, below) in enumerate(pairwise(backbones)):
            if above != below:
                panel.axhline(index + 0.5, color=MUTED, linewidth=0.6)
    return figure, panels


def _positions(rows: Rows) -> Iterator[tuple[CellRow, float]]:
    """Every cell with its height; cells of one row lie closely above each other."""
    for row, cells in enumerate(rows.values()):
        gap = min(0.3, 0.7 / len(cells))
        for index, cell in enumerate(cells):
            yield cell, row + gap * (index - (len(cells) - 1) / 2)


def _dot(panel: Axes, x: float, y: float, *, heads: str) -> None:
    panel.plot([x], [y], zorder=3, **_dot_style(heads))


def _dot_style(heads: str) -> dict[str, Any]:
    """Trained heads: a full disc. Frozen heads: an open diamond."""
    color = HEADS[heads]
    return {
        "marker": _MARKERS[heads],
        "markersize": 6.0 if heads == "trained" else 5.2,
        "markeredgecolor": color,
        "markeredgewidth": 1.5,
        "markerfacecolor": color if heads == "trained" else PAPER,
        "linestyle": "none",
    }


def _dashed(color: str) -> Line2D:
    return Line2D([], [], color=color, linewidth=1.1, linestyle=(0, (3, 1.5)))


def _legend(
    figure: Figure, cells: Sequence[CellRow], *, extra: Sequence[tuple[Line2D, str]] = ()
) -> None:
    present = [heads for heads in HEADS if any(cell.heads == heads for cell in cells)]
    entries = [(Line2D([], [], **_dot_style(heads)), f"heads {heads}") for heads in present]
    handles, names = zip(*entries, *extra, strict=True)
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), fontsize=9)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
