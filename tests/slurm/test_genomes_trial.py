"""A user's own study on real genomes, from FASTA to report, on a live cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import pytest

from gpuwork.metrics import balanced_accuracy
from tests.slurm.login import Login

pytestmark = pytest.mark.slurm

GRID = "tests/grids/genomes_trial.py"
GRID_S = 480


@pytest.fixture(scope="module")
def trial(login: Login, shared: Path) -> Path:
    """The merged results. The backbone is the demo's: making one from these genomes takes longer
    than everything else here. The data set is copied to where the user may read.
    """
    login.run("make", "demo")
    data = login.stage / "data"
    for name in ("superkingdom_genomes", "taxdump_mini_2024"):
        shutil.copytree(shared / "data" / name, data / name)
    source = (
        "--manifest data/superkingdom_genomes/manifest.tsv --taxdump data/taxdump_mini_2024 "
        "--test-share 0.1 --drop-classes-below 12"
    )
    login.run("make", "corpus", "NAME=genomes", f"SOURCE={source}")
    login.run("make", "submit", f"GRID={GRID}")
    login.wait_for_all_jobs(deadline_s=GRID_S)
    return login.workspace.merged("genomes_trial")


def test_every_cell_is_done_and_reported(login: Login, trial: Path) -> None:
    assert {entry["state"] for entry in login.status(GRID).values()} == {"done"}
    with h5py.File(trial) as file:
        assert file["missing/cell_id"].shape == (0,)
    assert (login.workspace.report("genomes_trial") / "report.html").is_file()


def test_full_training_learns_well_above_chance(trial: Path) -> None:
    with h5py.File(trial) as file:
        full = list(file["cells/strategy"].asstr()).index("full")
        rows = slice(*file["test/offset"][full : full + 2])
        for level in ("superkingdom", "phylum", "genus"):
            true, predicted = file[f"test/{level}/true_class"], file[f"test/{level}/top_class"]
            chance = 1 / file[f"class/{level}"].shape[0]
            assert balanced_accuracy(true[rows], predicted[rows, 0]) > 2 * chance, level
