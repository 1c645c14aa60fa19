"""A merged file as frozen values; predictions are read cell by cell, never all at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from analysis.place import StudyError
from gpuwork import layouts, schema
from gpuwork.registry import BACKBONES, STRATEGIES


@dataclass(frozen=True, slots=True)
class CellRow:
    """One finished cell.

    Attributes
    ----------
    index
        Row in the merged file.
    rank
        None where the strategy has none.
    best_epoch
        Counted from 0.
    epochs
        Columns of ``epochs/`` by name, such as ``train_loss``.
    """

    index: int
    cell_id: str
    provenance: dict[str, str]
    task: str
    backbone: str
    strategy: str
    rank: int | None
    heads: str
    seed: int
    learning_rate: float
    best_epoch: int
    trainable_parameters: int
    total_parameters: int
    peak_bytes: int
    run_s: float
    epochs: dict[str, npt.NDArray[Any]]

    @property
    def epoch_s(self) -> float:
        """Median over the epochs of the seconds spent in training."""
        return float(np.median(self.epochs["train_s"]))


@dataclass(frozen=True, slots=True)
class Study:
    """All of a merged file but the predictions.

    Attributes
    ----------
    expected_cells
        Cells of the grid; None: not known when it was merged.
    cells
        By backbone, strategy, rank, learning rate, heads, seed.
    missing
        Cell ids.
    rejected
        (file, reason)
    """

    path: Path
    name: str
    created_utc: str
    levels: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    expected_cells: int | None
    cells: tuple[CellRow, ...]
    missing: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]


def load(path: Path) -> Study:
    """Read and check a merged file.

    Raises
    ------
    StudyError
        It is damaged or of another layout.
    """
    try:
        schema.check(path, "merged")
    except schema.SchemaError as error:
        raise StudyError(str(error)) from error
    with h5py.File(path, "r", locking=False) as file:
        levels = schema.levels_of(file)
        expected = int(file.attrs.get("expected_cells", -1))
        names, reasons = (schema.strings(file[f"rejected/{key}"]) for key in ("file", "reason"))
        return Study(
            path=path,
            name=str(file.attrs["study"]),
            created_utc=str(file.attrs["created_utc"]),
            levels=levels,
            classes={level: tuple(schema.strings(file[f"class/{level}"])) for level in levels},
            expected_cells=None if expected < 0 else expected,
            cells=tuple(sorted(_cells(file), key=_order)),
            missing=tuple(schema.strings(file["missing/cell_id"])),
            rejected=tuple(zip(names, reasons, strict=True)),
        )


def predictions(
    study: Study,
) -> Iterator[tuple[CellRow, str, npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
    """True and most probable class of the test rows, cell by cell and level by level."""
    with h5py.File(study.path, "r", locking=False) as file:
        offset = file["test/offset"][:]
        for cell in study.cells:
            rows = slice(offset[cell.index], offset[cell.index + 1])
            for level in study.levels:
                true = file[f"test/{level}/true_class"][rows]
                yield cell, level, true, file[f"test/{level}/top_class"][rows, 0]


def labels(study: Study) -> dict[str, str]:
    """Short names by cell id: strategy, rank, and the learning rate where only it differs."""
    rates: dict[tuple[str, str], set[float]] = defaultdict(set)
    short = {}
    for cell in study.cells:
        rank = "" if cell.rank is None else f" r{cell.rank}"
        short[cell.cell_id] = f"{cell.strategy}{rank}"
        rates[cell.backbone, short[cell.cell_id]].add(cell.learning_rate)
    for cell in study.cells:
        if len(rates[cell.backbone, short[cell.cell_id]]) > 1:
            short[cell.cell_id] += f" lr {cell.learning_rate:g}"
    return short


def _cells(file: h5py.File) -> list[CellRow]:
    columns: dict[str, Any] = {}
    for name, column in layouts.LAYOUTS["merged"].items():
        group, _, key = name.partition("/")
        if group == "cells":
            is_text = column.dtype == "str"
            columns[key] = schema.strings(file[name]) if is_text else file[name][:].tolist()
    del columns["config"], columns["file_sha256"]
    columns["provenance"] = [json.loads(text) for text in columns["provenance"]]
    columns["rank"] = [None if rank < 0 else rank for rank in columns["rank"]]
    columns["epochs"] = _epochs(file, n_cells=len(columns["cell_id"]))
    columns["index"] = range(len(columns["cell_id"]))
    rows = zip(*columns.values(), strict=True)
    return [CellRow(**dict(zip(columns, row, strict=True))) for row in rows]


def _epochs(file: h5py.File, *, n_cells: int) -> list[dict[str, npt.NDArray[Any]]]:
    """The epoch columns, cut by cell; a cell's epochs lie together and in order."""
    names: list[str] = []
    file["epochs"].visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    cuts = np.searchsorted(file["epochs/cell"][:], np.arange(1, n_cells))
    parts = {name: np.split(file[f"epochs/{name}"][:], cuts) for name in names}
    return [{name: part[index] for name, part in parts.items()} for index in range(n_cells)]


def _order(cell: CellRow) -> tuple[Any, ...]:
    return (
        _place(cell.backbone, BACKBONES),
        _place(cell.strategy, STRATEGIES),
        -1 if cell.rank is None else cell.rank,
        cell.learning_rate,
        cell.heads != "trained",
        cell.seed,
        cell.cell_id,
    )


def _place(name: str, table: dict[str, Any]) -> tuple[int, str]:
    """Where a name stands in its table; a name from a newer table comes last."""
    return (list(table).index(name) if name in table else len(table), name)
