import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.arrays import (
    Array,
    arrays,
    cell_parameters,
    merge_parameters,
    setup_lines,
    shares,
    teardown_lines,
)
from jobs.resources import Shape
from jobs.site import Site, SlurmSection

SHAPE = Shape(gpus=1, cpus=8, mem_gb=32, minutes=60)
SITE = Site(file=Path("site.toml"), slurm=SlurmSection(partition="gpu", account="lab"))


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([4], 2, [2]),
        ([4], 10, [4]),
        ([21, 21, 10], 8, [3, 3, 2]),
        ([50, 1], 4, [3, 1]),
        ([1, 1, 4], 3, [1, 1, 1]),
        ([1, 1, 1], 2, [1, 1, 1]),
    ],
)
def test_shares_by_value(sizes: list[int], limit: int, expected: list[int]) -> None:
    assert shares(sizes, limit=limit) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 300))
def test_shares_never_exceed_limit_or_size(sizes: list[int], limit: int) -> None:
    granted = shares(sizes, limit=limit)
    assert all(1 <= share <= size for share, size in zip(granted, sizes, strict=True))
    assert sum(granted) <= max(limit, len(sizes))


def test_groups_are_cut_to_the_array_limit() -> None:
    cells = tuple(f"c{n}" for n in range(50))
    other = replace(SHAPE, minutes=10)
    cut = arrays({SHAPE: cells, other: ("x",)}, most=21, parallelism=100)
    assert [len(array.cells) for array in cut] == [21, 21, 8, 1]
    assert sum((array.cells for array in cut), ()) == (*cells, "x")
    assert [array.shape for array in cut] == [SHAPE, SHAPE, SHAPE, other]


def test_parameters_of_an_array() -> None:
    asked = cell_parameters(Array(shape=SHAPE, cells=("a", "b"), at_once=2), site=SITE)
    assert asked["time"] == 60
    assert asked["mem"] == "32GB"
    assert asked["gres"] == "gpu:1"
    assert (asked["partition"], asked["account"], asked["qos"]) == ("gpu", "lab", None)
    assert asked["wckey"] is None
    assert asked["signal_delay_s"] == 120
    assert asked["additional_parameters"] == {"requeue": True}


def test_the_merge_job_waits_for_every_array_whatever_its_end() -> None:
    asked = merge_parameters(["12", "13"], site=SITE)
    assert asked["dependency"] == "afterany:12:13"
    assert asked["additional_parameters"]["kill-on-invalid-dep"] == "yes"
    assert "gres" not in asked


def test_the_worker_knows_when_to_stop() -> None:
    lines = setup_lines(3480, site=replace(SITE, slurm=SlurmSection(setup=("module load x",))))
    shell = "SLURM_CPUS_PER_TASK=8\n" + "\n".join(lines[:-1])
    shell += '\necho "$SRUN_CPUS_PER_TASK $OMP_NUM_THREADS $((GLM_GRID_STOP_AT - $(date +%s)))"'
    said = subprocess.run(["bash", "-euc", shell], capture_output=True, text=True, check=True)
    cpus, threads, left_s = said.stdout.split()
    assert (cpus, threads) == ("8", "8")
    assert 3475 <= int(left_s) <= 3480
    assert lines[-1] == "module load x"


@pytest.mark.parametrize(
    ("code", "variables", "requeued"),
    [
        (85, "SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=3 SLURM_JOB_ID=15", "requeue 12_3"),
        (85, "SLURM_JOB_ID=15", "requeue 15"),
        (85, "SLURM_JOB_ID=15 SLURM_RESTART_COUNT=100", ""),
        (0, "SLURM_JOB_ID=15", ""),
        (1, "SLURM_ARRAY_JOB_ID=12 SLURM_ARRAY_TASK_ID=3 SLURM_JOB_ID=15", ""),
    ],
)
def test_teardown_requeues_the_one_element_that_asks(
    tmp_path: Path, code: int, variables: str, requeued: str
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/bash\necho "$*" > {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    shell = "\n".join([f"(exit {code})", *teardown_lines()])
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    environment.update(entry.split("=") for entry in variables.split())
    done = subprocess.run(["bash", "-c", shell], env=environment, check=False)
    asked = tmp_path / "asked"
    assert done.returncode == code
    assert (asked.read_text().strip() if asked.exists() else "") == requeued
