"""The demo's cell of full training once more, under a study name of its own: to compare with."""

from __future__ import annotations

from collections.abc import Iterator

from gpuwork.spec import Cell
from jobs.grids import demo


def cells() -> Iterator[Cell]:
    return (cell for cell in demo.cells() if cell.strategy == "full")
