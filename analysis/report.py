"""Write report.html: figures, table and provenance of a study in one file that opens offline."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup
from rich.console import Console

from analysis import figures, tables
from analysis.load import CellRow, Study, labels, load
from analysis.place import StudyError, place, publish
from analysis.stats import CONFIDENCE, RESAMPLES, Score, scores
from gpuwork.registry import STRATEGIES

Scores = Mapping[tuple[str, str], Score]

_FIRST = (
    "code_revision", "code_sha256", "corpus_sha256", "weights_sha256", "torch_version", "device",
    "cuda", "python",
)  # fmt: skip
"""Facts that head the provenance table; the others follow by name."""
_LISTED = 4


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the provenance table: distinct values with the number of cells that have them.

    Attributes
    ----------
    more
        Distinct values that are not listed.
    """

    name: str
    values: tuple[tuple[str, int], ...]
    more: int


@dataclass(frozen=True, slots=True)
class Best:
    """The cell with the highest balanced accuracy at the finest level."""

    label: str
    cell: CellRow
    level: str
    score: Score


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of one study."""
    options = tables.parse(argv, command="report", describe=__doc__)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        found = place(options.study, site=options.site, out=options.out)
        with errors.status("drawing the report"):
            path = write_report(load(found.merged), directory=found.report)
    except (StudyError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    console.print(f"report: {path}")
    return 0


def write_report(study: Study, *, directory: Path) -> Path:
    """Write report.html, figures/*.svg and tables/results.csv; the same bytes for the same study.

    Returns
    -------
    Path
        report.html
    """
    measured = scores(study)
    drawn = figures.draw(study, measured)
    for name, svg in drawn.items():
        publish(directory / "figures" / f"{name}.svg", svg)
    tables.write_csv(directory, study, measured)
    path = directory / "report.html"
    publish(path, _page(study, measured, drawn))
    return path


def provenance(study: Study) -> tuple[Fact, ...]:
    """Every fact that the cells tell about themselves, most telling first."""
    names = {name for cell in study.cells for name in cell.provenance}
    names -= {"finished_utc", "memory_kind"}
    ordered = [name for name in _FIRST if name in names] + sorted(names - set(_FIRST))
    facts = []
    for name in ordered:
        counter = Counter(cell.provenance.get(name, "not recorded") for cell in study.cells)
        if set(counter) != {""}:
            values = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            facts.append(Fact(name, tuple(values[:_LISTED]), max(0, len(values) - _LISTED)))
    return tuple(facts)


def _page(study: Study, measured: Scores, drawn: Mapping[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Safe unescaped: matplotlib escapes the text it puts into an SVG.
    inlined = {
        name: Markup(figures.inline(svg, name=f"figure{index}"))
        for index, (name, svg) in enumerate(drawn.items(), start=1)
    }
    finished = sorted(cell.provenance["finished_utc"] for cell in study.cells)
    page: str = environment.get_template("report.html.j2").render(
        study=study,
        done=tables.n_done(study),
        best=_best(study, measured),
        figures=inlined,
        curves={
            name.partition(".")[2]: svg
            for name, svg in inlined.items()
            if name.startswith("learning_curves.")
        },
        table=tables.texts(study, measured),
        lacking=tables.lacking(study),
        chance={
            level: measured[study.cells[0].cell_id, level].chance
            for level in (study.levels if study.cells else ())
        },
        strategies=[STRATEGIES[name] for name in _strategies(study)],
        provenance=provenance(study),
        memory_kinds=sorted({cell.provenance["memory_kind"] for cell in study.cells}),
        finished=(finished[0], finished[-1]) if finished else None,
        percent=tables.percent,
        text_columns=tables.TEXT_COLUMNS,
        resamples=f"{RESAMPLES:,}",
        confidence=f"{100 * CONFIDENCE:.0f} %",
    )
    return page


def _best(study: Study, measured: Scores) -> Best | None:
    if not study.cells:
        return None
    level, short = study.levels[-1], labels(study)
    cell = max(study.cells, key=lambda cell: measured[cell.cell_id, level].value)
    return Best(short[cell.cell_id], cell, level, measured[cell.cell_id, level])


def _strategies(study: Study) -> list[str]:
    used = {cell.strategy for cell in study.cells}
    return [name for name in STRATEGIES if name in used]


if __name__ == "__main__":
    sys.exit(main())
