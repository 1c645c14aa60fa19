"""The HDF5 layouts (corpus, tokens, result, merged): names, dtypes, units, check, atomic write.

A layout is a table of columns. Columns of one dimension have one length; ``<level>`` in a name
stands for every label level listed in the file's ``levels`` attribute. numpy and h5py only.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

VERSIONS = {"corpus": "1.0", "tokens": "1.0", "result": "1.0", "merged": "1.0"}
SPLITS = ("train", "validation", "test")
"""Values of a corpus' ``split`` column are indices into this."""

_STORED_SMALL = 64
"""Datasets below this length are stored plain: filters need chunks and cost more than they save."""


class SchemaError(ValueError):
    """A file that is not what its layout promises: which file, what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class Column:
    """One dataset of a layout.

    Attributes
    ----------
    dtype
        numpy dtype, or ``str`` for UTF-8 text.
    unit
        SI symbol, ``bytes``, ``tokens``, or ``1`` for a pure number or code.
    dimension
        Name of the first axis; ``x+1`` is the offset of a flat column over dimension x.
    axes
        Number of axes.
    """

    dtype: str
    unit: str
    dimension: str
    axes: int = 1


_STEP_COLUMNS = {
    "steps/step": Column("int64", "1", "step"),
    "steps/loss": Column("float64", "nat", "step"),
    "steps/learning_rate": Column("float64", "1", "step"),
}
_EPOCH_COLUMNS = {
    "epochs/epoch": Column("int64", "1", "epoch"),
    "epochs/train_loss": Column("float64", "nat", "epoch"),
    "epochs/validation_loss": Column("float64", "nat", "epoch"),
    "epochs/train_s": Column("float64", "s", "epoch"),
    "epochs/validation_s": Column("float64", "s", "epoch"),
    "epochs/sequences_per_s": Column("float64", "1/s", "epoch"),
    "epochs/tokens_per_s": Column("float64", "1/s", "epoch"),
    "epochs/peak_bytes": Column("int64", "bytes", "epoch"),
    "epochs/energy_j": Column("float64", "J", "epoch"),
    "epochs/balanced_accuracy/<level>": Column("float64", "1", "epoch"),
}
_TEST_COLUMNS = {
    "test/row": Column("int64", "1", "test"),
    "test/<level>/true_class": Column("int32", "1", "test"),
    "test/<level>/top_class": Column("int32", "1", "test", 2),
    "test/<level>/top_log_probability": Column("float32", "nat", "test", 2),
    "test/<level>/true_log_probability": Column("float32", "nat", "test"),
    "test/<level>/true_rank": Column("int32", "1", "test"),
}
_CLASSES = {"class/<level>": Column("str", "1", "class_<level>")}

LAYOUTS: dict[str, dict[str, Column]] = {
    "corpus": {
        "bases": Column("uint8", "base", "base"),
        "offset": Column("int64", "base", "fragment+1"),
        "label/<level>": Column("int32", "1", "fragment"),
        "split": Column("uint8", "1", "fragment"),
        "group": Column("int64", "taxid", "fragment"),
        "record/file": Column("int32", "1", "fragment"),
        "record/index": Column("int64", "1", "fragment"),
        "file": Column("str", "1", "file"),
        **_CLASSES,
    },
    "tokens": {
        "token": Column("uint16", "1", "token"),
        "offset": Column("int64", "tokens", "fragment+1"),
    },
    "result": {
        "config": Column("str", "1", "one"),
        "attempts/number": Column("int64", "1", "attempt"),
        "attempts/node": Column("str", "1", "attempt"),
        "attempts/started_utc": Column("str", "1", "attempt"),
        "attempts/first_step": Column("int64", "1", "attempt"),
        "attempts/micro_batch": Column("int64", "1", "attempt"),
        "attempts/accumulation": Column("int64", "1", "attempt"),
        "attempts/ranks": Column("int64", "1", "attempt"),
        **_EPOCH_COLUMNS,
        **_STEP_COLUMNS,
        "gpu/time_s": Column("float64", "s", "sample"),
        "gpu/memory_bytes": Column("int64", "bytes", "sample"),
        "gpu/power_w": Column("float64", "W", "sample"),
        "gpu/utilization": Column("float64", "1", "sample"),
        "gpu/clock_hz": Column("float64", "Hz", "sample"),
        "gpu/other_tenants": Column("int64", "1", "sample"),
        **_TEST_COLUMNS,
        **_CLASSES,
    },
    "merged": {
        "cells/cell_id": Column("str", "1", "cell"),
        "cells/config": Column("str", "1", "cell"),
        "cells/provenance": Column("str", "1", "cell"),
        "cells/file_sha256": Column("str", "1", "cell"),
        "cells/task": Column("str", "1", "cell"),
        "cells/backbone": Column("str", "1", "cell"),
        "cells/strategy": Column("str", "1", "cell"),
        "cells/rank": Column("int64", "1", "cell"),
        "cells/heads": Column("str", "1", "cell"),
        "cells/seed": Column("int64", "1", "cell"),
        "cells/learning_rate": Column("float64", "1", "cell"),
        "cells/best_epoch": Column("int64", "1", "cell"),
        "cells/trainable_parameters": Column("int64", "1", "cell"),
        "cells/total_parameters": Column("int64", "1", "cell"),
        "cells/peak_bytes": Column("int64", "bytes", "cell"),
        "cells/run_s": Column("float64", "s", "cell"),
        "epochs/cell": Column("int64", "1", "epoch"),
        **_EPOCH_COLUMNS,
        "test/offset": Column("int64", "1", "cell+1"),
        **_TEST_COLUMNS,
        **_CLASSES,
        "missing/cell_id": Column("str", "1", "missing"),
        "missing/config": Column("str", "1", "missing"),
        "rejected/file": Column("str", "1", "rejected"),
        "rejected/reason": Column("str", "1", "rejected"),
    },
}

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "corpus": ("name", "levels", "content_sha256", "inputs_sha256", "split_rule", "seed"),
    "tokens": (
        "tokenizer", "tokenizer_sha256", "corpus_sha256", "unknown_share",
        "shortest_tokens", "median_tokens", "longest_tokens",
    ),
    "result": (
        "cell_id", "levels", "finished_utc", "best_epoch", "total_parameters",
        "trainable_parameters", "peak_bytes", "memory_kind", "run_s",
    ),
    "merged": ("study", "levels"),
}  # fmt: skip
"""Root attributes every file of a layout has, beside schema, schema_version and created_utc."""


@contextmanager
def write(path: Path, layout: str, *, in_memory: bool = False) -> Iterator[h5py.File]:
    """Open a new HDF5 file that appears under `path` only once it is complete.

    Written under a temporary name in the same directory, fsynced, checked, renamed; removed if
    the block raises.

    Parameters
    ----------
    in_memory
        Build the file in memory and write its bytes in one go: for small files on a parallel
        file system.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    versions = ("v108", "v110")
    try:
        if in_memory:
            with h5py.File.in_memory(libver=versions) as file:
                _stamp(file, layout)
                yield file
                file.flush()
                image = file.id.get_file_image()
            temporary.write_bytes(image)
        else:
            with h5py.File(temporary, "w", libver=versions) as file:
                _stamp(file, layout)
                yield file
        check(temporary, layout)
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def commit(temporary: Path, path: Path) -> None:
    """Make a finished temporary file appear as `path`: fsync, umask permissions, rename, fsync."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0o077)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def put(
    file: h5py.File, name: str, values: npt.ArrayLike, *, layout: str, plain: bool = False
) -> None:
    """Store one column with its layout's dtype and unit; shuffled, compressed and checksummed.

    Parameters
    ----------
    name
        Full name with the level filled in, such as ``test/genus/true_class``.
    plain
        Contiguous and uncompressed, so that it can be memory-mapped.
    """
    column = _expand(LAYOUTS[layout], levels_of(file))[name]
    dtype: Any = h5py.string_dtype() if column.dtype == "str" else np.dtype(column.dtype)
    data = np.asarray(values, dtype=object if column.dtype == "str" else dtype)
    # HDF5 has no filters for text of variable length: it is stored plain whatever its length.
    large = data.size >= _STORED_SMALL and column.dtype != "str" and not plain
    filters: dict[str, Any] = (
        {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}
        if large
        else {}
    )
    file.create_dataset(name, data=data, dtype=dtype, **filters).attrs["unit"] = column.unit


def check(path: Path, layout: str) -> None:
    """Read a whole file and compare it with its layout.

    Every chunk is read, so that a flipped byte or a truncated file is found.

    Raises
    ------
    SchemaError
        Anything missing, misshapen, of another version, unreadable; names the file and the part.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            _check_open(file, path, layout)
    except (OSError, RuntimeError, KeyError, UnicodeDecodeError) as error:
        raise SchemaError(
            f"{path}: cannot be read ({error}); move it away and make it again"
        ) from error


def levels_of(file: h5py.File) -> tuple[str, ...]:
    """Label levels a file declares, coarse to fine; () where it has none."""
    return tuple(str(level) for level in file.attrs.get("levels", ()))


def strings(dataset: h5py.Dataset) -> list[str]:
    """The values of a text column."""
    return [str(value) for value in dataset.asstr()[:]]


def now_utc() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stamp(file: h5py.File, layout: str) -> None:
    file.attrs["schema"] = f"glm-grid.{layout}"
    file.attrs["schema_version"] = VERSIONS[layout]
    file.attrs["created_utc"] = now_utc()


def _expand(columns: Mapping[str, Column], levels: tuple[str, ...]) -> dict[str, Column]:
    """Fill ``<level>`` in names and dimensions with each level."""
    expanded: dict[str, Column] = {}
    for name, column in columns.items():
        for level in levels if "<level>" in name else ("",):
            dimension = column.dimension.replace("<level>", level)
            expanded[name.replace("<level>", level)] = Column(
                column.dtype, column.unit, dimension, column.axes
            )
    return expanded


def _check_open(file: h5py.File, path: Path, layout: str) -> None:
    schema, version = file.attrs.get("schema"), str(file.attrs.get("schema_version", ""))
    if (
        schema != f"glm-grid.{layout}"
        or version.partition(".")[0] != VERSIONS[layout].partition(".")[0]
    ):
        raise SchemaError(
            f"{path}: is {schema!r} version {version!r}, expected glm-grid.{layout} version "
            f"{VERSIONS[layout]}; make it again with this release"
        )
    attributes = dict(file.attrs)
    absent = [name for name in ATTRIBUTES[layout] if name not in attributes]
    columns = _expand(LAYOUTS[layout], levels_of(file))
    absent += [name for name in columns if name not in file]
    if absent:
        raise SchemaError(f"{path}: lacks {', '.join(absent)}; make it again")
    lengths: dict[str, tuple[int, str]] = {}
    for name, column in columns.items():
        length = _check_column(file[name], column, path)
        dimension = column.dimension.removesuffix("+1")
        rows = length - 1 if column.dimension.endswith("+1") else length
        expected, first = lengths.setdefault(dimension, (rows, name))
        if rows != expected:
            raise SchemaError(f"{path}: {name} has {rows} rows, but {first} has {expected}")
    for name, column in columns.items():
        if column.dimension.endswith("+1"):
            _check_offset(file, name, path)


def _check_column(dataset: h5py.Dataset, column: Column, path: Path) -> int:
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    kind = "str" if is_text else dataset.dtype.name
    if kind != column.dtype or dataset.ndim != column.axes:
        raise SchemaError(
            f"{path}: {dataset.name} is {kind} with {dataset.ndim} axes, expected "
            f"{column.dtype} with {column.axes}"
        )
    if (unit := dataset.attrs.get("unit")) != column.unit:
        raise SchemaError(f"{path}: {dataset.name} is in {unit!r}, expected {column.unit!r}")
    for chunk in _slices(dataset):
        dataset[chunk]
    return int(dataset.shape[0])


def _slices(dataset: h5py.Dataset) -> Iterator[slice]:
    """Slices of whole chunks, some tens of megabytes each: bounded memory at any size."""
    row_bytes = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    rows = max(1, (32 << 20) // row_bytes)
    if dataset.chunks:
        rows = max(1, rows // dataset.chunks[0]) * dataset.chunks[0]
    for start in range(0, dataset.shape[0], rows):
        yield slice(start, start + rows)


_FLAT = {
    "corpus": ("offset", "bases"),
    "tokens": ("offset", "token"),
    "merged": ("test/offset", "test/row"),
}


def _check_offset(file: h5py.File, name: str, path: Path) -> None:
    offset = file[name][:]
    layout = str(file.attrs["schema"]).removeprefix("glm-grid.")
    flat = file[_FLAT[layout][1]]
    if offset[0] != 0 or offset[-1] != flat.shape[0] or np.any(np.diff(offset) < 0):
        raise SchemaError(f"{path}: {name} does not run from 0 to the length of {flat.name}")
