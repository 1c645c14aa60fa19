"""What was kept and dropped, and why: rows for the terminal and for a file beside the corpus."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from gpuwork.schema import commit

DROPPED = ("dropped taxid", "dropped class")
DETAILS = (*DROPPED, "merged taxid", "class")
"""Sections that can be long: in the file, not on the terminal."""


class Row(NamedTuple):
    """How many fragments (classes, in the section of that name) something is about."""

    section: str
    item: str
    number: int
    note: str = ""


def table(rows: Iterable[Row], *, title: str) -> Table:
    """The rows without the long lists."""
    shown = Table("", "", title=title)
    shown.add_column("number", justify="right")
    shown.add_column("")
    for row in rows:
        if row.section not in DETAILS:
            shown.add_row(row.section, row.item, f"{row.number:,}", row.note)
    return shown


def write(path: Path, rows: Iterable[Row]) -> None:
    """All rows as tab-separated values, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ("\t".join(str(field) for field in row) + "\n" for row in (Row._fields, *rows))
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        temporary.write_text("".join(lines), encoding="utf-8")
        commit(temporary, path)
