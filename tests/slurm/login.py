"""The live cluster as its user sees it: a login node, a directory of one's own, some commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuwork.workspace import Workspace
from jobs import journal
from jobs.journal import Submission

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Login:
    """An ordinary user in the staged copy of this repository.

    Attributes
    ----------
    stage
        What ``tests/cluster/stage`` made; the user owns it.
    """

    stage: Path

    @property
    def workspace(self) -> Workspace:
        """Where the commands that run here read and write."""
        return Workspace.locate(self.stage / "site.toml")

    def run(self, *command: str, timeout_s: float = 300) -> str:
        """Run a command here as the user; its standard output.

        Fails the test, with all that the command said, when it ends with another code than 0;
        124 means that it took longer than `timeout_s`.
        """
        user = self.stage.owner()
        done = subprocess.run(
            # Unlike subprocess, timeout(1) ends what the command has started, too.
            ["timeout", f"{timeout_s}", *command],
            cwd=self.stage,
            user=user,
            group=self.stage.group(),
            extra_groups=(),
            env={
                "HOME": str(self.stage.parent),
                "USER": user,
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "SLURM_CONF": os.environ["SLURM_CONF"],
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{said}"
        return done.stdout

    def status(self, study: str) -> dict[str, dict[str, Any]]:
        """Cell id → state, why, job and log of a study, as ``jobs.status --json`` tells them."""
        told = self.run(".venv/bin/python", "-m", "jobs.status", study, "--json")
        return {entry["cell_id"]: entry for entry in json.loads(told)}

    def submissions(self, study: str) -> tuple[Submission, ...]:
        """What was sent for a study, oldest first: arrays and merge jobs."""
        return journal.read(self.workspace.run(study))

    def queue(self) -> list[str]:
        """Id and state of every job of the user that SLURM has not finished."""
        listed = self.run("squeue", "--me", "--noheader", "--array", "--format=%i %T %r")
        return listed.splitlines()

    def wait(self, until: Callable[[], Any], *, told: str, deadline_s: float) -> Any:
        """Ask until the answer is true, and give that answer; fail the test after the deadline."""
        end = time.monotonic() + deadline_s
        while not (answer := until()):
            assert time.monotonic() < end, f"not {told} after {deadline_s} s; {self.queue()}"
            time.sleep(_LOOK_S)
        return answer

    def wait_for_all_jobs(self, *, deadline_s: float) -> None:
        """Until nothing of the user's is queued or runs."""
        self.wait(lambda: not self.queue(), told="all jobs over", deadline_s=deadline_s)

    def wait_for_progress(self, study: str, cell_id: str, *, deadline_s: float) -> None:
        """Until a cell trains."""
        progress = self.workspace.run(study) / "progress" / f"{cell_id}.json"
        self.wait(progress.exists, told=f"{cell_id} in training", deadline_s=deadline_s)

    def kill(self, study: str, cell_id: str) -> None:
        """Kill the process that runs a cell as the kernel does when memory runs out."""
        attempts = sorted((self.workspace.run(study) / "attempts" / cell_id).glob("*.json"))
        pid = json.loads(attempts[-1].read_text())["pid"]
        assert b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, signal.SIGKILL)
