"""Change a file of glm-grid and seal it again, to test what lies behind the seal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from gpuwork.schema import seal


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    with h5py.File(path, "r+") as file:
        yield file
    seal(path)
