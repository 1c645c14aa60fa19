"""The local way with nothing replaced: a tiny grid that fails, is interrupted, and finishes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuwork.workspace import Workspace
from tests.tiny import make_workspace

ROOT = Path(__file__).resolve().parents[2]
GRID = """
from dataclasses import replace
from jobs.grids.demo import cells as demo

def cells():
    for cell in demo():
        if cell.strategy in ("full", "head_only"):
            recipe = replace(cell.recipe, effective_batch=16, epochs=2)
            yield replace(cell, corpus="tiny", recipe=recipe)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "trial.py").write_text(GRID)
    (tmp_path / "site.toml").write_text('[execution]\nexecutor = "local"\ndevice = "cpu"\n')
    make_workspace(tmp_path / "work")
    return tmp_path


def launch(place: Path, command: str, *flags: str) -> subprocess.Popen[str]:
    """A command of the launcher in a session of its own, as in a terminal."""
    arguments = [str(place / "trial.py"), "--site", str(place / "site.toml"), *flags]
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{command}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def call(place: Path, command: str, *flags: str) -> tuple[int, str]:
    """Exit code and output of a command that is left to run to its end."""
    with launch(place, command, *flags) as process:
        told, _ = process.communicate(timeout=300)
    return process.returncode, told


def states(place: Path) -> list[str]:
    """State of each cell, as status tells it."""
    return [entry["state"] for entry in json.loads(call(place, "status", "--json")[1])]


def press_ctrl_c_once_cells_run(process: subprocess.Popen[str], run: Path) -> None:
    """Interrupt the whole session, as a terminal does, when both workers have begun."""
    give_up_s = time.monotonic() + 120
    while len(list(run.glob("attempts/*/1.json"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)


def test_a_grid_that_fails_is_interrupted_and_finishes(place: Path) -> None:
    workspace = Workspace(place / "work")
    run = workspace.run("trial")
    weights = workspace.model("nt_v2_nano") / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(b"not weights")
    code, told = call(place, "submit")
    assert code == 1, told
    assert told.count("log: ") == 2
    assert states(place) == ["failed", "failed"]
    assert "make resubmit" in call(place, "submit")[1]

    weights.write_bytes(good)
    with launch(place, "resubmit") as process:
        press_ctrl_c_once_cells_run(process, run)
        told, _ = process.communicate(timeout=300)
    assert process.returncode == 130, told
    assert "go on with" in told
    assert states(place) == ["stopped", "stopped"]

    code, told = call(place, "submit")
    assert code == 0, told
    assert "(2 of 2 done)" in told
    assert len(list(workspace.results("trial").glob("*.h5"))) == 2
    assert workspace.merged("trial").is_file()
    assert (workspace.report("trial") / "report.html").is_file()
    code, told = call(place, "submit")
    assert (code, "nothing to do" in told) == (0, True)
