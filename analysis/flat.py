"""Flat columns of a file that grow result by result, in bounded memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from gpuwork.layouts import Column

_CHUNK_ROWS = 16_384
_BUFFER_BYTES = 32 << 20


@dataclass(slots=True)
class Flat:
    """Resizable datasets of one file behind a buffer: many small appends, few large writes."""

    file: h5py.File
    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    waiting: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    waiting_bytes: int = 0

    def create(self, name: str, column: Column, *, tail: tuple[int, ...] = ()) -> None:
        """Make an empty, growing dataset; `tail` is its shape after the first axis."""
        self.datasets[name] = self.file.create_dataset(
            name,
            shape=(0, *tail),
            maxshape=(None, *tail),
            chunks=(_CHUNK_ROWS, *tail),
            dtype=np.dtype(column.dtype),
            compression="gzip",
            compression_opts=4,
            shuffle=True,
            fletcher32=True,
        )
        self.datasets[name].attrs["unit"] = column.unit

    def append(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add rows to some columns."""
        for name, values in columns.items():
            self.waiting.setdefault(name, []).append(values)
            self.waiting_bytes += values.nbytes
        if self.waiting_bytes > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for name, parts in self.waiting.items():
            values = np.concatenate(parts)
            dataset = self.datasets[name]
            start = len(dataset)
            dataset.resize(start + len(values), axis=0)
            dataset[start:] = values
        self.waiting.clear()
        self.waiting_bytes = 0
