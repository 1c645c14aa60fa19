"""Files in one of the layouts of `gpuwork.layouts`: atomic write, seal, check. numpy and h5py only.

Every file ends in the sha256 of all bytes before it. HDF5 does not mind what follows its own end,
and no flipped byte, not even in text that HDF5 leaves without a checksum, passes for data.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from gpuwork.layouts import ATTRIBUTES, LAYOUTS, VERSIONS, Column

_SEAL = b"glm-grid sha256 "
_BLOCK_BYTES = 1 << 24
_STORED_SMALL = 64
"""Datasets below this length are stored plain: filters need chunks and cost more than they save."""


class SchemaError(ValueError):
    """A file that is not what its layout promises: which file, what is wrong, what to do."""


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
            with h5py.File(temporary, "w", libver=versions, locking=False) as file:
                _stamp(file, layout)
                yield file
        seal(temporary)
        check(temporary, layout)
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def seal(path: Path) -> None:
    """Append the sha256 of a file's bytes; `check` refuses a file that no longer agrees with it."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.write(_SEAL + digest.encode())


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
    """Read a whole file and compare it with its seal and its layout.

    Raises
    ------
    SchemaError
        A byte was changed or cut off; anything missing, misshapen, of another version, unreadable.
        Names the file and the part.
    """
    try:
        _check_seal(path)
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


def _check_seal(path: Path) -> None:
    length = len(_SEAL) + 64
    total = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size - length
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            total.update(block)
            left -= len(block)
        found = file.read()
    if found != _SEAL + total.hexdigest().encode():
        raise SchemaError(
            f"{path}: its bytes are not those that were written (cut short, altered, or not a "
            "file of glm-grid); move it away and make it again"
        )


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
    return int(dataset.shape[0])


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
