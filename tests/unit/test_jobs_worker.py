"""The worker on the real training code, each call in a process of its own as on a node."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from jobs import attempts, truth
from jobs.arrays import STOPPED
from jobs.site import Site
from jobs.studies import Study, open_study, write_cells
from tests.tiny import make_workspace

ROOT = Path(__file__).resolve().parents[2]
GRID = """
from dataclasses import replace
from jobs.grids.demo import cells as demo

def cells():
    cell = next(iter(demo()))
    yield replace(cell, corpus="tiny", recipe=replace(cell.recipe, effective_batch=16, epochs=1))
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    (tmp_path / "trial.py").write_text(GRID)
    make_workspace(tmp_path / "work")
    study = open_study(str(tmp_path / "trial.py"), site=Site(file=tmp_path / "site.toml"))
    write_cells(study)
    return study


def work(
    study: Study, cell_id: str, *, before: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """One call of the worker, as submitit's local executor would make it."""
    shell = f"{before}\nimport sys; from jobs.worker import work; work(*sys.argv[1:])"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": "77",
        "SUBMITIT_FOLDER": str(study.run / "submitit" / "local"),
        **variables,
    }
    command = [sys.executable, "-c", shell, str(study.site.file), study.name, cell_id]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_stopped_then_finished_then_left_alone(study: Study) -> None:
    (cell_id,) = study.cells
    stopped = work(study, cell_id, GLM_GRID_STOP_AT="0")
    assert stopped.returncode == STOPPED, stopped.stderr
    attempt = attempts.last(study.run, cell_id)
    assert attempt is not None
    assert (attempt.number, attempt.ended, attempt.job) == (0, "stopped", "77")
    assert attempt.log.endswith("77_0_log.err")
    assert truth.look(study)[cell_id].state == "stopped"

    finished = work(study, cell_id)
    assert finished.returncode == 0, finished.stderr
    attempt = attempts.last(study.run, cell_id)
    assert attempt is not None
    assert (attempt.number, attempt.ended) == (1, "done")
    assert truth.look(study)[cell_id].state == "done"
    progress = attempts.read_progress(study.run, cell_id)
    assert {"phase", "epoch", "epochs", "step", "steps", "sequences_per_s", "left_s"} < set(
        progress
    )

    result = study.workspace.result(study.name, cell_id)
    with h5py.File(result, locking=False) as file:
        assert file["attempts/number"][:].tolist() == [0, 1]
    before = result.stat().st_mtime_ns
    assert work(study, cell_id).returncode == 0
    assert result.stat().st_mtime_ns == before
    assert attempts.last(study.run, cell_id) == attempt


def test_a_signal_while_the_stopped_worker_ends_does_not_kill_it(study: Study) -> None:
    late = """
import os, signal
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), signals=(signal.SIGUSR2, signal.SIGTERM)):
        for late in signals:
            kill(pid, late)
late = Late()
"""
    (cell_id,) = study.cells
    assert work(study, cell_id, before=late, GLM_GRID_STOP_AT="0").returncode == STOPPED


def test_a_failure_is_recorded_and_still_fails(study: Study) -> None:
    (cell_id,) = study.cells
    (study.workspace.model("nt_v2_nano") / "model.safetensors").write_bytes(b"not weights")
    failed = work(study, cell_id)
    assert failed.returncode == 1
    attempt = attempts.last(study.run, cell_id)
    assert attempt is not None
    assert attempt.ended == "failed"
    assert attempt.traceback is not None
    assert attempt.message is not None
    assert "model.safetensors" in attempt.message
    standing = truth.look(study)[cell_id]
    assert (standing.state, standing.why) == ("failed", f"{attempt.error}: {attempt.message}")


def test_a_cell_that_left_the_grid_is_refused(study: Study) -> None:
    (study.run / "cells.json").write_text("[]")
    (cell_id,) = study.cells
    refused = work(study, cell_id)
    assert refused.returncode == 1
    assert "the grid was changed since" in refused.stderr


def test_the_handler_only_sets_a_flag_and_children_do_not_inherit_it() -> None:
    shell = (
        "import os, signal, json\n"
        "from jobs.worker import _listen\n"
        "should_stop = _listen()\n"
        "before = should_stop()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    ignored = signal.getsignal(signal.SIGUSR2) == signal.SIG_IGN\n"
        "    default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL\n"
        "    os._exit(0 if ignored and default else 1)\n"
        "in_child = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "os.kill(os.getpid(), signal.SIGUSR2)\n"
        "print(json.dumps([before, should_stop(), in_child]))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", shell], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(said.stdout) == [False, True, 0]
