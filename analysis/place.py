"""Where a study's merged file and its report lie, and how text gets there whole."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gpuwork import schema
from gpuwork.workspace import SITE, Workspace


class StudyError(ValueError):
    """A study that cannot be merged or reported: what, where, what to do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A merged file and the directory for what is made of it."""

    merged: Path
    report: Path


def workspace(site: Path) -> Workspace:
    """The workspace of a site file that was named; `SITE` itself may be absent.

    Raises
    ------
    StudyError
        There is no such file.
    """
    if site != SITE and not site.exists():
        raise StudyError(f"{site}: no such file")
    return Workspace.locate(site)


def study_name(study: str) -> str:
    """A study's name: as given, or the stem of its grid file."""
    return Path(study).stem if study.endswith(".py") else study


def place(study: str, *, site: Path, out: Path | None) -> Place:
    """Find the merged file of a study and the directory of its report.

    Parameters
    ----------
    study
        Name of a study, its grid file, or the path of a merged .h5 file. For a merged file
        without `out` the report lies beside it, in ``<stem>.report``.
    out
        Directory of the report; None: the default.

    Raises
    ------
    StudyError
        There is no merged file.
    """
    if study.endswith(".h5"):
        merged = Path(study)
        default = merged.with_suffix(".report")
        remedy = "give the name of a study or the path of a merged file"
    else:
        name, space = study_name(study), workspace(site)
        merged, default = space.merged(name), space.report(name)
        remedy = f"make it with `make merge GRID={name}`"
    if not merged.is_file():
        raise StudyError(f"{merged}: no such file; {remedy}")
    return Place(merged, out or default)


def publish(path: Path, text: str) -> None:
    """Write text so that `path` appears only complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        schema.commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
