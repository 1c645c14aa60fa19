"""What is sent to SLURM: how cells are cut into arrays, and what an array asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.resources import Shape
from jobs.site import Site

STOPPED = 85
"""Exit code of a worker that left a checkpoint and wants to go on."""

_MOST_RESTARTS = 100
"""A cell that is stopped this often makes no headway; it is left for a person to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """One array to be sent: cells of one shape, and how many of them may run at a time."""

    shape: Shape
    cells: tuple[str, ...]
    at_once: int


def arrays(
    groups: Mapping[Shape, tuple[str, ...]], *, most: int, parallelism: int
) -> tuple[Array, ...]:
    """Cut groups of one shape into arrays of at most `most` cells; share the throttle."""
    cut = [
        (needed, cells[start : start + most])
        for needed, cells in groups.items()
        for start in range(0, len(cells), most)
    ]
    at_once = shares([len(cells) for _, cells in cut], limit=parallelism)
    return tuple(
        Array(shape=needed, cells=cells, at_once=share)
        for (needed, cells), share in zip(cut, at_once, strict=True)
    )


def shares(sizes: Sequence[int], *, limit: int) -> list[int]:
    """Split a limit over arrays in proportion to their sizes, 1 each at least.

    The sum is `limit`, unless there are more arrays than that or fewer cells.
    """
    if sum(sizes) <= limit:
        return list(sizes)
    granted = [1] * len(sizes)
    for _ in range(limit - len(sizes)):
        neediest = max(range(len(sizes)), key=lambda at: sizes[at] / granted[at])
        granted[neediest] += 1
    return granted


def cell_parameters(array: Array, *, site: Site) -> dict[str, Any]:
    """Parameters of submitit for one array of cells."""
    stop_before_s = min(120, array.shape.minutes * 12)
    return {
        **_site_parameters(site, partition=site.slurm.partition),
        "time": array.shape.minutes,
        "cpus_per_task": array.shape.cpus,
        "mem": f"{array.shape.mem_gb}GB",
        "gres": site.slurm.gres or None,
        "array_parallelism": array.at_once,
        "signal_delay_s": stop_before_s,
        "setup": setup_lines(array.shape.minutes * 60 - stop_before_s, site=site),
        "teardown": teardown_lines(),
        "additional_parameters": {"requeue": True},
    }


def merge_parameters(after: Sequence[str], *, site: Site) -> dict[str, Any]:
    """Parameters of submitit for the merge job, which starts when these jobs are over."""
    return {
        **_site_parameters(site, partition=site.slurm.merge_partition or site.slurm.partition),
        "time": min(60, site.slurm.minutes_limit),
        "cpus_per_task": 1,
        "mem": f"{min(8, site.slurm.mem_gb)}GB",
        "dependency": ":".join(("afterany", *after)),
        "setup": list(site.slurm.setup),
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
    }


def setup_lines(run_s: int, *, site: Site) -> list[str]:
    """Shell lines before srun; the worker stops by itself after `run_s` seconds."""
    return [
        # srun of 22.05 to 23.02 does not inherit --cpus-per-task.
        'export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"',
        'export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK"',
        f'export GLM_GRID_STOP_AT="$(( $(date +%s) + {run_s} ))"',
        *site.slurm.setup,
    ]


def teardown_lines() -> list[str]:
    """Shell lines after srun: queue this very element again if the worker asks for it.

    Outside of any container, where scontrol is. A bare array id would requeue the whole array.
    """
    return [
        "rc=$?",
        'job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}"',
        f'if [ "$rc" -eq {STOPPED} ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {_MOST_RESTARTS} ]',
        'then scontrol requeue "${job:-$SLURM_JOB_ID}"',
        "fi",
        'exit "$rc"',
    ]


def _site_parameters(site: Site, *, partition: str | None) -> dict[str, Any]:
    return {
        "partition": partition,
        "account": site.slurm.account,
        "qos": site.slurm.qos,
        "constraint": site.slurm.constraint,
        "exclude": site.slurm.exclude,
        # submitit's own default is refused where keys are enforced.
        "wckey": None,
    }
