"""The results table of a study: in the terminal and as tables/results.csv."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.load import CellRow, Study, load
from analysis.place import StudyError, place, publish
from analysis.stats import Score, scores
from gpuwork.workspace import SITE

Scores = Mapping[tuple[str, str], Score]

TEXT_COLUMNS = ("backbone", "strategy", "heads")
_MAY_BE_SHARED = ("backbone", "lr", "seed")
_INTERVALS = "intervals"
_LEFT_OUT = ("peak", "s/epoch", "best epoch", "share", "lr", "trainable")
"""Columns that a narrow terminal does without; the first goes first."""
_NARROW = 100
"""Terminal columns below which the intervals go before any column does."""
_WIDTH = 180
"""Columns to lay out for where the output is no terminal."""
_ENDLESS = 10_000
_LISTED = 10


@dataclass(frozen=True, slots=True)
class Texts:
    """The results table as text.

    Attributes
    ----------
    shared
        Column → value, of the settings that are the same in several cells; not in `header`.
    best
        (row, column) of the highest balanced accuracy at each level.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    shared: dict[str, str]
    best: frozenset[tuple[int, int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of one study and write its CSV."""
    options = parse(argv, command="tables", describe=__doc__)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        found = place(options.study, site=options.site, out=options.out)
        study = load(found.merged)
    except (StudyError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    measured = scores(study)
    path = write_csv(found.report, study, measured)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    show(console, study, measured)
    console.print(f"[dim]{escape(str(path))}[/dim]", soft_wrap=True)
    return 0


def parse(argv: Sequence[str] | None, *, command: str, describe: str | None) -> argparse.Namespace:
    """Arguments of the commands that read a merged file: STUDY, --site, --out."""
    parser = argparse.ArgumentParser(
        prog=f"python -m analysis.{command}", description=(describe or "").partition("\n")[0]
    )
    parser.add_argument(
        "study", metavar="STUDY", help="name of a study, its grid file, or a merged .h5 file"
    )
    parser.add_argument("--site", type=Path, default=SITE, help="site.toml of this machine")
    parser.add_argument("--out", type=Path, help="directory to write to (default: the report's)")
    return parser.parse_args(argv)


def texts(study: Study, measured: Scores, *, without: Collection[str] = ()) -> Texts:
    """The table's text; columns that are the same everywhere are set apart.

    Parameters
    ----------
    without
        Names of columns to leave out; ``intervals`` leaves those of the accuracies out.
    """
    columns = _settings(study.cells)
    constant = [name for name in _MAY_BE_SHARED if len(set(columns[name])) == 1]
    shared = {name: columns.pop(name)[0] for name in constant if len(study.cells) > 1}
    columns = {name: values for name, values in columns.items() if name not in without}
    to_text = short_percent if _INTERVALS in without else percent
    best = set()
    for level in study.levels:
        found = [measured[cell.cell_id, level] for cell in study.cells]
        top = max(found, key=lambda score: score.value, default=None)
        best |= {(row, len(columns)) for row, score in enumerate(found) if score == top}
        columns[f"{level} %"] = [to_text(score) for score in found]
    costs = _costs(study.cells)
    columns |= {name: values for name, values in costs.items() if name not in without}
    rows = tuple(zip(*columns.values(), strict=True))
    return Texts(tuple(columns), rows, shared, frozenset(best))


def show(console: Console, study: Study, measured: Scores) -> None:
    """Print the table, then what is missing and rejected and what to do about it.

    A terminal without room for all of it gets fewer columns, never cut ones.
    """
    for without in _omissions(texts(study, measured).header, console=console):
        table = _table(study, measured, without=without)
        table.width = console.measure(table, options=console.options.update(width=_ENDLESS)).maximum
        if table.width <= console.width or not console.is_terminal:
            break
    console.print(table, crop=False)
    if without:
        console.print(f"left out to fit, see results.csv: {', '.join(without)}")
    for title, items, remedy in lacking(study):
        console.print(f"[bold]{len(items)} {title}[/bold]: {escape(remedy)}", soft_wrap=True)
        for item in items[:_LISTED]:
            console.print(f"  {escape(item)}", soft_wrap=True)
        if len(items) > _LISTED:
            console.print(f"  … and {len(items) - _LISTED} more")


def _omissions(header: Sequence[str], *, console: Console) -> Iterator[tuple[str, ...]]:
    """What to leave out: nothing, then more and more."""
    names = [name for name in _LEFT_OUT if name in header]
    some = [tuple(names[:n]) for n in range(len(names) + 1)]
    yield from some if console.width >= _NARROW else some[:1]
    yield from ((_INTERVALS, *columns) for columns in some)


def _table(study: Study, measured: Scores, *, without: Collection[str]) -> Table:
    told = texts(study, measured, without=without)
    interval = "" if _INTERVALS in without else " (95 % bootstrap interval)"
    caption = f"balanced accuracy on the test set in %{interval}"
    if told.shared:
        same = ", ".join(f"{name} {value}" for name, value in told.shared.items())
        caption = f"{caption}; every cell: {same}"
    table = Table(
        title=f"{escape(study.name)}: {n_done(study)}",
        caption=caption,
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for name in told.header:
        is_text = name in TEXT_COLUMNS
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    for index, row in enumerate(told.rows):
        marked = [
            f"[bold]{escape(text)}[/bold]" if (index, column) in told.best else escape(text)
            for column, text in enumerate(row)
        ]
        table.add_row(*marked)
    return table


def n_done(study: Study) -> str:
    """How many cells are done, of how many."""
    done = len(study.cells)
    if study.expected_cells is None:
        return f"{done} cells, the grid's size is not known"
    return f"{done} of {study.expected_cells} cells"


def lacking(study: Study) -> list[tuple[str, list[str], str]]:
    """(title, items, what to do) of what is not in the table."""
    files = [f"{name}: {reason}" for name, reason in study.rejected]
    again = (
        f"run them with `make resubmit GRID={study.name}`, then `make merge GRID={study.name}` and "
        f"`make report GRID={study.name}`"
    )
    aside = "each says why; move the file away, and its cell runs again when resubmitted"
    told = [("missing", list(study.missing), again), ("rejected", files, aside)]
    return [(title, items, remedy) for title, items, remedy in told if items]


def write_csv(directory: Path, study: Study, measured: Scores) -> Path:
    """Write tables/results.csv: one row per cell, plain numbers, units in the names."""
    header = [
        "cell_id", "task", "backbone", "strategy", "rank", "heads", "seed", "learning_rate",
        "trainable_parameters", "total_parameters", "best_epoch", "epochs", "train_s_per_epoch",
        "peak_bytes", "run_s",
    ]  # fmt: skip
    kinds = {"": "value", "_low": "low", "_high": "high"}
    header += [f"balanced_accuracy_{level}{kind}" for level in study.levels for kind in kinds]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for cell in study.cells:
        found = [measured[cell.cell_id, level] for level in study.levels]
        writer.writerow(
            [
                cell.cell_id, cell.task, cell.backbone, cell.strategy, cell.rank, cell.heads,
                cell.seed, cell.learning_rate, cell.trainable_parameters, cell.total_parameters,
                cell.best_epoch + 1, len(cell.epochs["epoch"]), cell.epoch_s, cell.peak_bytes,
                cell.run_s,
                *(getattr(score, name) for score in found for name in kinds.values()),
            ]
        )  # fmt: skip
    path = directory / "tables" / "results.csv"
    publish(path, text.getvalue())
    return path


def percent(score: Score) -> str:
    """A score with its interval, in percent."""
    return f"{short_percent(score)} ({100 * score.low:.1f}–{100 * score.high:.1f})"  # noqa: RUF001 - an en dash is meant


def short_percent(score: Score) -> str:
    """A score in percent."""
    return f"{100 * score.value:.1f}"


def count(number: int) -> str:
    """A large number with three digits: 443628 is 444 k."""
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return str(number)


def size(number: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"


def seconds(value: float) -> str:
    """Seconds with three digits, and all digits before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _settings(cells: Sequence[CellRow]) -> dict[str, list[str]]:
    return {
        "backbone": [cell.backbone for cell in cells],
        "strategy": [cell.strategy for cell in cells],
        "rank": ["" if cell.rank is None else str(cell.rank) for cell in cells],
        "heads": [cell.heads for cell in cells],
        "lr": [f"{cell.learning_rate:g}" for cell in cells],
        "seed": [str(cell.seed) for cell in cells],
    }


def _costs(cells: Sequence[CellRow]) -> dict[str, list[str]]:
    shares = [100 * cell.trainable_parameters / cell.total_parameters for cell in cells]
    return {
        "trainable": [count(cell.trainable_parameters) for cell in cells],
        "share": [f"{share:.2g} %" if share < 1 else f"{share:.1f} %" for share in shares],
        "best epoch": [f"{cell.best_epoch + 1}/{len(cell.epochs['epoch'])}" for cell in cells],
        "s/epoch": [seconds(cell.epoch_s) for cell in cells],
        "peak": [size(cell.peak_bytes) for cell in cells],
    }


if __name__ == "__main__":
    sys.exit(main())
