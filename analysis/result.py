"""One result file: read, and held against what its name and its layout promise."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from gpuwork import schema
from gpuwork.layouts import LAYOUTS, Column
from gpuwork.spec import Cell, cell_from_json, cell_id


class UnusableError(ValueError):
    """A result file that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the merge takes from one result file.

    Attributes
    ----------
    config
        JSON text with ``cell`` and ``execution``.
    provenance
        Facts about code, data, software and machine, and when the cell was done.
    attributes
        Root attributes that become columns of ``cells``.
    classes
        Class names by level.
    columns
        The flat columns, ``epochs/…`` and ``test/…``.
    """

    cell: Cell
    cell_id: str
    config: str
    provenance: dict[str, str]
    file_sha256: str
    attributes: dict[str, Any]
    classes: dict[str, list[str]]
    columns: dict[str, npt.NDArray[Any]]

    @property
    def levels(self) -> tuple[str, ...]:
        """Label levels, coarse to fine."""
        return tuple(self.classes)

    @property
    def n_epochs(self) -> int:
        """Epochs that were trained."""
        return len(self.columns["epochs/epoch"])

    @property
    def n_rows(self) -> int:
        """Test rows."""
        return len(self.columns["test/row"])


def flat_columns(levels: tuple[str, ...]) -> dict[str, Column]:
    """The columns that results and the merged layout share, with the levels filled in."""
    return {
        name.replace("<level>", level): column
        for name, column in LAYOUTS["result"].items()
        if name.startswith(("epochs/", "test/"))
        for level in (levels if "<level>" in name else ("",))
    }


def read(path: Path) -> Result:
    """Read a result file and check that it is what its name says.

    Raises
    ------
    UnusableError
        Damaged, of another layout or cell, or with values that cannot be; says which.
    """
    try:
        result = _read(path)
        _check(result, path)
    except UnusableError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UnusableError(str(error).removeprefix(f"{path}: ")) from error
    return result


def _read(path: Path) -> Result:
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    schema.check(path, "result")
    with h5py.File(path, "r", locking=False) as file:
        levels = schema.levels_of(file)
        (config,) = schema.strings(file["config"])
        provenance = {name: str(value) for name, value in file["provenance"].attrs.items()}
        told = ("finished_utc", "memory_kind")
        whole = ("best_epoch", "trainable_parameters", "total_parameters", "peak_bytes")
        return Result(
            cell=cell_from_json(json.dumps(json.loads(config)["cell"])),
            cell_id=str(file.attrs["cell_id"]),
            config=config,
            provenance={**provenance, **{name: str(file.attrs[name]) for name in told}},
            file_sha256=digest,
            attributes={
                **{name: int(file.attrs[name]) for name in whole},
                "run_s": float(file.attrs["run_s"]),
            },
            classes={level: schema.strings(file[f"class/{level}"]) for level in levels},
            columns={name: _whole(file, name) for name in flat_columns(levels)},
        )


def _whole(file: h5py.File, name: str) -> npt.NDArray[Any]:
    """A whole dataset, through HDF5's own interface: for small ones h5py's slicing takes longer."""
    dataset = h5py.h5d.open(file.id, name.encode())
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _check(result: Result, path: Path) -> None:
    computed = cell_id(result.cell)
    if not path.stem == result.cell_id == computed:
        raise UnusableError(
            f"the file is named {path.stem}, says it is {result.cell_id}, and holds the "
            f"configuration of {computed}; these must be one"
        )
    if not result.n_epochs or not result.n_rows:
        raise UnusableError(f"has {result.n_epochs} epochs and {result.n_rows} test rows")
    if not 0 <= result.attributes["best_epoch"] < result.n_epochs:
        raise UnusableError(
            f"best_epoch is {result.attributes['best_epoch']} of {result.n_epochs} epochs"
        )
    _check_values(result)


def _check_values(result: Result) -> None:
    measured = ("loss", "balanced_accuracy", "log_probability", "train_s")
    for name, values in result.columns.items():
        if any(word in name for word in measured) and not np.isfinite(values).all():
            raise UnusableError(f"{name} has values that are not finite")
    for level, names in result.classes.items():
        for kind in ("true_class", "top_class"):
            values = result.columns[f"test/{level}/{kind}"]
            if not values.size or values.min() < 0 or values.max() >= len(names):
                raise UnusableError(f"test/{level}/{kind} has values that are none of the classes")
