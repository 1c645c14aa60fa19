"""Merge all results of a study into one file; list what is missing or cannot be used.

Exit codes: 0 complete; 6 merged, but cells are missing or files were rejected; 7 refused, because
code or data differ between results; 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from analysis.flat import Flat
from analysis.place import StudyError, study_name, workspace
from analysis.result import Result, UnusableError, flat_columns, read
from gpuwork import layouts, schema
from gpuwork.spec import Cell, cell_from_json, cell_id, cell_to_json
from gpuwork.workspace import SITE, Workspace

INCOMPLETE, MIXED = 6, 7
UNIFORM = ("code_sha256", "corpus_sha256")
"""Facts that must be the same in every result, or the numbers are not comparable."""

_LISTED = 10


class MixedError(ValueError):
    """Results that were computed with different code or data."""


@dataclass(slots=True)
class Gathered:
    """What the results read so far have given.

    Attributes
    ----------
    first
        Class names by level and stored classes per prediction, as the first usable result has
        them; None before it.
    rows
        Columns of ``cells``.
    test_rows
        Test rows of each cell.
    rejected
        (file, reason)
    """

    flat: Flat
    first: tuple[dict[str, list[str]], list[tuple[int, ...]]] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    test_rows: list[int] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    uniform: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in UNIFORM}
    )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a merge found: cells merged, cells without a result, files that cannot be used.

    Attributes
    ----------
    missing
        None: no cells.json, so nobody knows.
    """

    n_cells: int
    missing: tuple[str, ...] | None
    rejected: tuple[tuple[str, str], ...]

    @property
    def is_complete(self) -> bool:
        """There are results, and nothing is known to lack."""
        return bool(self.n_cells) and not self.missing and not self.rejected


def main(argv: Sequence[str] | None = None) -> int:
    """Merge one study."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.merge", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("study", metavar="STUDY", help="name of the study, or its grid file")
    parser.add_argument("--site", type=Path, default=SITE, help="site.toml of this machine")
    parser.add_argument(
        "--allow-mixed", action="store_true", help="merge results of different code or data"
    )
    options = parser.parse_args(argv)
    study = study_name(options.study)
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        space = workspace(options.site)
        outcome = merge(study, workspace=space, allow_mixed=options.allow_mixed, console=errors)
    except (StudyError, schema.SchemaError, OSError) as error:
        errors.print(f"error: {error}")
        return 2
    except MixedError as error:
        errors.print(f"error: {error}")
        return MIXED
    _tell(Console(soft_wrap=True, highlight=False, markup=False), outcome, space.merged(study))
    return 0 if outcome.is_complete else INCOMPLETE


def merge(study: str, *, workspace: Workspace, allow_mixed: bool, console: Console) -> Outcome:
    """Write ``results/<study>.h5`` from ``results/<study>/``, one result in memory at a time.

    Raises
    ------
    StudyError
        The study was never submitted, or its cells.json cannot be read.
    MixedError
        Code or data differ between results; nothing is written.
    """
    expected = _expected(workspace.run(study) / "cells.json")
    folder = workspace.results(study)
    if expected is None and not folder.is_dir():
        raise StudyError(
            f"no study {study!r}: neither {folder} nor {workspace.run(study) / 'cells.json'} is "
            "there; submit it first, or check the name and --site"
        )
    paths = sorted(folder.glob("*.h5"))
    with schema.write(workspace.merged(study), "merged") as file:
        file.attrs["study"] = study
        file.attrs["levels"] = ()
        file.attrs["expected_cells"] = -1 if expected is None else len(expected)
        gathered = Gathered(Flat(file))
        for path in track(paths, "merging", console=console, transient=True):
            try:
                _add(gathered, read(path), expected)
            except UnusableError as error:
                gathered.rejected.append((path.name, str(error)))
        if not allow_mixed:
            _refuse_mixed(gathered.uniform)
        done = {str(row["cell_id"]) for row in gathered.rows}
        missing = {name: cell for name, cell in (expected or {}).items() if name not in done}
        _finish(gathered, missing)
    return Outcome(
        len(done), None if expected is None else tuple(missing), tuple(gathered.rejected)
    )


def _expected(path: Path) -> dict[str, Cell] | None:
    """The cells of the study by id; None where there is no cells.json."""
    if not path.exists():
        return None
    try:
        cells = [cell_from_json(text) for text in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); submit the study again") from error
    return {cell_id(cell): cell for cell in cells}


def _add(gathered: Gathered, result: Result, expected: dict[str, Cell] | None) -> None:
    """Take one result in, or raise UnusableError before anything of it was taken."""
    if expected is not None and result.cell_id not in expected:
        raise UnusableError("its cell is not in the grid as last submitted; move the file away")
    tails = [result.columns[name].shape[1:] for name in flat_columns(result.levels)]
    if gathered.first is None:
        gathered.first = (result.classes, tails)
        gathered.flat.file.attrs["levels"] = result.levels
        for (name, column), tail in zip(flat_columns(result.levels).items(), tails, strict=True):
            gathered.flat.create(name, column, tail=tail)
        gathered.flat.create("epochs/cell", layouts.LAYOUTS["merged"]["epochs/cell"])
    elif gathered.first != (result.classes, tails):
        raise UnusableError(
            "its levels, classes or stored classes per prediction are not those of "
            f"{gathered.rows[0]['cell_id']}: another corpus or code; run its cell again"
        )
    index = np.full(result.n_epochs, len(gathered.rows), dtype=np.int64)
    gathered.flat.append({**result.columns, "epochs/cell": index})
    gathered.rows.append(_row(result))
    gathered.test_rows.append(result.n_rows)
    for name, counter in gathered.uniform.items():
        counter[result.provenance.get(name, "not recorded")] += 1


def _row(result: Result) -> dict[str, Any]:
    cell = result.cell
    return {
        "cell_id": result.cell_id,
        "config": result.config,
        "provenance": json.dumps(result.provenance, sort_keys=True),
        "file_sha256": result.file_sha256,
        "task": cell.task,
        "backbone": cell.backbone,
        "strategy": cell.strategy,
        "rank": -1 if cell.rank is None else cell.rank,
        "heads": cell.heads,
        "seed": cell.seed,
        "learning_rate": cell.recipe.learning_rate,
        **result.attributes,
    }


def _digits(digests: str) -> str:
    """One digest, or several joined by +, to 12 digits each."""
    return "+".join(digest[:12] for digest in digests.split("+"))


def _refuse_mixed(uniform: dict[str, Counter[str]]) -> None:
    for name, counter in uniform.items():
        if len(counter) > 1:
            values = ", ".join(f"{_digits(value)} in {n}" for value, n in counter.most_common())
            raise MixedError(
                f"results differ in {name}: {values}; move the results of one of them away and "
                "run those cells again, or merge with --allow-mixed, which keeps the value of "
                "every cell"
            )


def _finish(gathered: Gathered, missing: dict[str, Cell]) -> None:
    """Flush the flat columns and write all others."""
    file = gathered.flat.file
    gathered.flat.flush()

    def put(name: str, values: npt.ArrayLike) -> None:
        schema.put(file, name, values, layout="merged")

    for name in layouts.LAYOUTS["merged"]:
        group, _, key = name.partition("/")
        if group == "cells":
            put(name, [row[key] for row in gathered.rows])
    put("test/offset", np.concatenate([[0], np.cumsum(gathered.test_rows, dtype=np.int64)]))
    for level, names in (gathered.first[0] if gathered.first else {}).items():
        put(f"class/{level}", names)
    if gathered.first is None:
        for name in (*flat_columns(()), "epochs/cell"):
            put(name, [])
    put("missing/cell_id", list(missing))
    put("missing/config", [f'{{"cell": {cell_to_json(cell)}}}' for cell in missing.values()])
    put("rejected/file", [name for name, _ in gathered.rejected])
    put("rejected/reason", [reason for _, reason in gathered.rejected])


def _tell(console: Console, outcome: Outcome, path: Path) -> None:
    for line in _lines(outcome, path):
        console.print(line)


def _lines(outcome: Outcome, path: Path) -> Iterator[str]:
    missing = "unknown" if outcome.missing is None else str(len(outcome.missing))
    yield (
        f"{path}: {outcome.n_cells} cells merged; missing: {missing}; "
        f"rejected: {len(outcome.rejected)}"
    )
    if outcome.missing is None:
        yield "the study has no cells.json, so which cells are missing cannot be known"
    if not outcome.n_cells:
        yield "there are no usable results yet"
    yield from _short("missing", outcome.missing or ())
    yield from _short("rejected", [f"{name}: {reason}" for name, reason in outcome.rejected])


def _short(title: str, items: Sequence[str]) -> Iterator[str]:
    yield from (f"{title}  {item}" for item in items[:_LISTED])
    if len(items) > _LISTED:
        yield f"{title}  … and {len(items) - _LISTED} more"


if __name__ == "__main__":
    sys.exit(main())
