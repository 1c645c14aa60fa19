"""A study: its cells, bound to the corpora that exist, and where its files lie."""

from __future__ import annotations

import importlib.util
import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np

import jobs.grids
from gpuwork import layouts, schema
from gpuwork.registry import BACKBONES, Backbone
from gpuwork.spec import Cell, cell_from_json, cell_id, cell_to_json, check_distinct
from gpuwork.workspace import Workspace
from jobs.resources import Workload
from jobs.site import Site

_FRAGMENT_BP = 1500
"""Length of a taxonomy fragment, for a corpus that is not there yet."""


class StudyError(ValueError):
    """A study that cannot be loaded, or is not ready to run: what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A grid on a site.

    Attributes
    ----------
    grid
        What the user called it: a name or the path of a file.
    cells
        By cell id, in the grid's order; a cell whose corpus exists carries its digest.
    workloads
        By corpus name; None where the corpus is absent and the grid expects no sizes.
    """

    name: str
    grid: str
    site: Site
    cells: Mapping[str, Cell]
    workloads: Mapping[str, Workload | None]

    @property
    def workspace(self) -> Workspace:
        """The directories of the study's site."""
        return self.site.workspace

    @property
    def run(self) -> Path:
        """Directory of the study's journal, attempts, progress and logs."""
        return self.workspace.run(self.name)


def known_studies() -> dict[str, Path]:
    """The shipped studies: name → file."""
    folder = Path(jobs.grids.__path__[0])
    return {file.stem: file for file in sorted(folder.glob("[a-z]*.py"))}


def open_study(grid: str, *, site: Site) -> Study:
    """Load a shipped study by name, or a user's own by the path of its .py file.

    Raises
    ------
    StudyError
        Unknown name, missing file, a file without ``cells()`` or with an error in it.
    SpecError
        Two cells that mean the same.
    """
    path = _file_of(grid)
    module = _load(path)
    build = getattr(module, "cells", None)
    if not callable(build):
        raise StudyError(f"{path}: has no function cells(); define `def cells(): ...` with Cells")
    try:
        made = tuple(build())
    except Exception as error:
        raise StudyError(_located(error, path)) from error
    if strange := next((cell for cell in made if not isinstance(cell, Cell)), None):
        raise StudyError(f"{path}: cells() gave {strange!r}; it must give gpuwork.spec.Cell")
    if not made:
        raise StudyError(f"{path}: cells() gave no cell")
    corpora = {cell.corpus for cell in made}
    digests = {name: corpus_digest(site.workspace.corpus(name)) for name in corpora}
    bound = check_distinct(replace(cell, corpus_sha256=digests[cell.corpus]) for cell in made)
    expected = getattr(module, "EXPECTED", None)
    return Study(
        name=path.stem,
        grid=grid,
        site=site,
        cells={cell_id(cell): cell for cell in bound},
        workloads={name: _workload(site.workspace.corpus(name), expected) for name in corpora},
    )


def write_cells(study: Study) -> None:
    """Write ``cells.json``: the bound cells, for the workers and for the merge."""
    study.run.mkdir(parents=True, exist_ok=True)
    temporary = study.run / ".cells.json.tmp"
    lines = ",\n".join(json.dumps(cell_to_json(cell)) for cell in study.cells.values())
    temporary.write_text(f"[\n{lines}\n]\n")
    schema.commit(temporary, study.run / "cells.json")


def read_cells(run: Path) -> dict[str, Cell]:
    """The cells that `write_cells` wrote, by cell id."""
    cells = map(cell_from_json, json.loads((run / "cells.json").read_text()))
    return {cell_id(cell): cell for cell in cells}


def corpus_digest(corpus: Path) -> str | None:
    """Digest of a corpus' content; None where there is no such file."""
    return _attribute(corpus, "content_sha256") if corpus.exists() else None


def missing_inputs(study: Study, backbone: Backbone, *, corpus: str) -> list[str]:
    """What a cell of this backbone and corpus lacks, each with what to do; [] when ready."""
    workspace = study.workspace
    digest = corpus_digest(workspace.corpus(corpus))
    lacking = [no_corpus(study, corpus)] if digest is None else []
    if not is_implemented(backbone):
        # Its tokens and weights would be made in vain.
        what = f"architecture {backbone.architecture!r} is not implemented"
        return [*lacking, f"{backbone.name}: {what}"]
    tokens = workspace.tokens(corpus, backbone.tokenizer)
    if digest is None:
        pass
    elif not tokens.exists():
        lacking.append(f"{tokens}: corpus {corpus!r} is not tokenized; {_make_corpus(corpus)}")
    elif _attribute(tokens, "corpus_sha256") != digest:
        lacking.append(f"{tokens}: made from another version of the corpus; tokenize it again")
    model = workspace.model(backbone.name)
    if not all((model / name).is_file() for name in ("config.json", "model.safetensors")):
        make = f"make models GRID={study.grid}"
        lacking.append(f"{model}: no config.json and model.safetensors; {make}")
    return lacking


def no_corpus(study: Study, corpus: str) -> str:
    """That a corpus is absent, and how it is made."""
    return f"{study.workspace.corpus(corpus)}: no such corpus; {_make_corpus(corpus)}"


def is_implemented(backbone: Backbone) -> bool:
    """Whether the backbone's architecture has a module; looks at files, imports nothing."""
    package = Path(schema.__file__).parent / "backbones"
    return (package / f"{backbone.architecture}.py").is_file()


def backbones(study: Study) -> dict[str, Backbone]:
    """The backbones of the study's cells, in the grid's order."""
    return {cell.backbone: BACKBONES[cell.backbone] for cell in study.cells.values()}


def strategy_label(cell: Cell) -> str:
    """Strategy, rank, and heads where they are frozen, as a table shows them."""
    rank = "" if cell.rank is None else f" r{cell.rank}"
    return f"{cell.strategy}{rank}" + (", frozen heads" if cell.heads == "frozen" else "")


def cell_label(cell: Cell) -> str:
    """A cell in few words for a table: ``nt_v2_50m lora r8 s0``."""
    return f"{cell.backbone} {strategy_label(cell)} s{cell.seed}"


def _file_of(grid: str) -> Path:
    """The file of a study given by name or by path."""
    known = known_studies()
    if not grid.endswith(".py") and grid in known:
        return known[grid]
    path = Path(grid).resolve()
    if not grid.endswith(".py") or not path.is_file():
        raise StudyError(
            f"unknown study: {grid!r}; known: {', '.join(known)}, or the path of a .py file with "
            "a function cells()"
        )
    if not re.fullmatch(r"\w[\w-]*", path.stem):
        raise StudyError(f"{path}: a study is named as its file; use letters, digits, _ and -")
    if path.stem in known and path != known[path.stem]:
        raise StudyError(f"{path}: {path.stem!r} is a shipped study; give the file another name")
    return path


def _load(path: Path) -> ModuleType:
    """Run a grid's file as a module of its own, under a name nothing else has."""
    found = importlib.util.spec_from_file_location(f"jobs.grids.{path.stem}", path)
    if found is None or found.loader is None:
        raise StudyError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise StudyError(_located(error, path)) from error
    return module


def _located(error: Exception, path: Path) -> str:
    """An error of a grid as one line: file, line in that file, what."""
    lines = [
        at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    where = path if line is None else f"{path}, line {line}"
    return f"{where}: {type(error).__name__}: {error}"


def _make_corpus(corpus: str) -> str:
    """The command that makes a corpus and its tokens; only the demo's source is known."""
    return "make demo" if corpus == "demo" else f'make corpus NAME={corpus} SOURCE="…"'


def _attribute(path: Path, name: str) -> str:
    """A root attribute of one of our files, without reading the rest."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return str(file.attrs[name])
    except (OSError, KeyError) as error:
        raise StudyError(f"{path}: cannot be read ({error}); make it again") from error


def _workload(corpus: Path, expected: Mapping[str, int] | None) -> Workload | None:
    """Sizes of the corpus, else those the grid expects."""
    if not corpus.exists():
        return None if expected is None else Workload(**expected, length_bp=_FRAGMENT_BP)
    try:
        with h5py.File(corpus, "r", locking=False) as file:
            split, bases = file["split"][:], file["bases"].shape[0]
    except (OSError, KeyError) as error:
        raise StudyError(f"{corpus}: cannot be read ({error}); make it again") from error
    count = np.bincount(split, minlength=len(layouts.SPLITS))
    sizes = {name: int(count[index]) for index, name in enumerate(layouts.SPLITS)}
    return Workload(**sizes, length_bp=bases / max(1, split.size))
