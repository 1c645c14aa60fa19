"""What every test stands on: one thread per process, and the reference material beside the repo."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any test imports torch: tests run side by side, and sums depend on how they are cut.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Directory with golden files and sample data; it is not part of this repository."""
    directory = Path(__file__).resolve().parents[2] / "shared"
    if not (directory / "golden").is_dir():
        pytest.fail(
            f"{directory}: no golden files there; put the directory `shared` (golden/, data/) "
            "beside the repository"
        )
    return directory
