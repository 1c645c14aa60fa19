"""The demo grid on a live cluster, with one cell killed and one stopped on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gpuwork import schema
from tests.slurm.login import Login

pytestmark = pytest.mark.slurm

CELLS = 12
NODES = {"h100-1", "h100-2", "h100-3", "h100-4"}
GRID_S = 480
START_S = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What was to be seen when all jobs of one submission were over."""

    status: dict[str, dict[str, Any]]
    merged: dict[str, list[str]]
    nodes: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The grid, sent once with disturbances, then what was left sent again.

    Attributes
    ----------
    killed, stopped
        The cell whose process was killed, and the one that was asked to stop.
    idle_submit
        What ``make submit`` said, with nothing left to do.
    """

    killed: str
    stopped: str
    first: Round
    second: Round
    idle_submit: str


@pytest.fixture(scope="module")
def story(login: Login) -> Story:
    login.run("make", "submit", "GRID=demo")
    login.run("make", "submit", "GRID=tests/grids/undisturbed.py")
    cells = login.submissions("demo")[0].cells
    killed = next(cell for cell in cells if ".random_init." in cell)
    stopped = next(cell for cell in cells if ".full." in cell)
    login.wait_for_progress("demo", killed, deadline_s=START_S)
    login.kill("demo", killed)
    login.wait_for_progress("demo", stopped, deadline_s=START_S)
    # The step: of an array with pending elements, an element is signalled again and again.
    step = f"{login.status('demo')[stopped]['job']}.0"
    login.run("scancel", "--signal=USR2", step)
    login.wait_for_all_jobs(deadline_s=GRID_S)
    first = _look(login)
    login.run("make", "resubmit", "GRID=demo")
    login.wait_for_all_jobs(deadline_s=GRID_S)
    idle_submit = login.run("make", "submit", "GRID=demo")
    return Story(
        killed=killed, stopped=stopped, first=first, second=_look(login), idle_submit=idle_submit
    )


def test_all_cells_but_the_killed_one_are_done_after_one_submit(story: Story) -> None:
    states = Counter(entry["state"] for entry in story.first.status.values())
    assert states == {"done": CELLS - 1, "failed": 1}
    assert story.first.status[story.killed]["state"] == "failed"


def test_the_array_spreads_over_all_nodes(login: Login, story: Story) -> None:
    array = login.submissions("demo")[0]
    used = [story.first.nodes[array.element(index)] for index in range(CELLS)]
    assert set(used) == NODES


def test_the_merge_job_runs_although_a_cell_failed(story: Story) -> None:
    merged = story.first.merged
    assert merged["missing/cell_id"] == [story.killed]
    assert sorted([*merged["cells/cell_id"], story.killed]) == sorted(story.first.status)


def test_resubmit_sends_the_killed_cell_alone(login: Login, story: Story) -> None:
    sent = [submission.cells for submission in login.submissions("demo")]
    assert sent == [tuple(story.first.status), (), (story.killed,), ()]
    assert {entry["state"] for entry in story.second.status.values()} == {"done"}


def test_the_second_merge_is_complete_and_reported(login: Login, story: Story) -> None:
    assert story.second.merged["missing/cell_id"] == []
    assert sorted(story.second.merged["cells/cell_id"]) == sorted(story.second.status)
    report = login.workspace.report("demo") / "report.html"
    assert report.stat().st_mtime > login.workspace.merged("demo").stat().st_mtime


def test_a_submit_with_nothing_to_do_says_so_and_sends_nothing(login: Login, story: Story) -> None:
    assert "nothing to do" in story.idle_submit
    assert len(login.submissions("demo")) == 4
    assert login.queue() == []


def test_a_stopped_cell_is_requeued_and_ends_in_the_same_bits(login: Login, story: Story) -> None:
    disturbed = login.workspace.result("demo", story.stopped)
    undisturbed = login.workspace.result("undisturbed", story.stopped)
    with h5py.File(disturbed) as file:
        assert file["attempts/first_step"][0] == 0
        assert file["attempts/first_step"][1] > 0
        assert file["provenance"].attrs["slurm_restart_count"] == "1"
    assert _science(disturbed) == _science(undisturbed)


def _look(login: Login) -> Round:
    status = login.status("demo")
    columns = ("cells/cell_id", "missing/cell_id")
    with h5py.File(login.workspace.merged("demo")) as file:
        merged = {column: schema.strings(file[column]) for column in columns}
    listed = login.run("sacct", "--allocations", "--noheader", "--parsable2", "-oJobID,NodeList")
    nodes = dict(line.split("|") for line in listed.splitlines())
    return Round(status=status, merged=merged, nodes=nodes)


def _science(result: Path) -> dict[str, bytes]:
    """Every number of a result that is not a measurement of the machine, to the bit."""
    measured = ("_s", "_bytes", "_j")
    found = {}
    with h5py.File(result) as file:

        def take(name: str, item: h5py.Dataset | h5py.Group) -> None:
            kept = name.startswith(("steps/", "epochs/", "test/")) and not name.endswith(measured)
            if kept and isinstance(item, h5py.Dataset):
                found[name] = np.asarray(item[:]).tobytes()

        file.visititems(take)
        found["weights"] = str(file["provenance"].attrs["trained_sha256"]).encode()
    return found
