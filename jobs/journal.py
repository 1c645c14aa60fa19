"""The journal of submissions: what was meant to be sent, and what SLURM took.

``runs/<study>/journal.jsonl`` is only ever appended to. An ``intent`` line is on disk before sbatch
is called, an ``accepted`` line with the job id, or a ``void`` line, follows. An intent without
either is the trace of a launcher that died in between: its unique job name is looked up, so that
nothing is sent twice and nothing is lost. Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpuwork.schema import now_utc


class LaunchBusyError(RuntimeError):
    """Another submit or resubmit of the same study is at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One array, or the merge job behind the arrays.

    Attributes
    ----------
    name
        Unique job name.
    cells
        Cell ids in the order of the array's elements; () for a merge job.
    job_id
        None until SLURM is known to have taken it.
    is_void
        It never reached SLURM.
    """

    name: str
    cells: tuple[str, ...]
    utc: str
    job_id: str | None = None
    is_void: bool = False

    def element(self, index: int) -> str:
        """SLURM's id of one element; submitit sends a single cell as a job of its own."""
        return f"{self.job_id}_{index}" if len(self.cells) > 1 else str(self.job_id)


def intend(run: Path, *, name: str, cells: tuple[str, ...]) -> Submission:
    """Write, before sbatch is called, what is about to be sent."""
    entry = _append(run, {"event": "intent", "name": name, "cells": cells})
    return Submission(name=name, cells=cells, utc=entry["utc"])


def accept(run: Path, *, name: str, job_id: str) -> None:
    """Write that SLURM took the submission of this name."""
    _append(run, {"event": "accepted", "name": name, "job_id": job_id})


def void(run: Path, *, name: str, why: str) -> None:
    """Write that the submission of this name never reached SLURM."""
    _append(run, {"event": "void", "name": name, "why": why})


def read(run: Path) -> tuple[Submission, ...]:
    """All submissions, oldest first."""
    path = run / "journal.jsonl"
    found: dict[str, Submission] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            # Torn by a crash: the call that the line announces was never made.
            continue
        name = entry["name"]
        if entry["event"] == "intent":
            found[name] = Submission(name=name, cells=tuple(entry["cells"]), utc=entry["utc"])
        elif entry["event"] == "accepted":
            found[name] = replace(found[name], job_id=entry["job_id"])
        else:
            found[name] = replace(found[name], is_void=True)
    return tuple(found.values())


def newest_elements(run: Path) -> dict[str, tuple[str, str]]:
    """Cell id → (SLURM id of the element that last carried it, UTC time of its submission)."""
    return {
        cell_id: (submission.element(index), submission.utc)
        for submission in read(run)
        if submission.job_id is not None
        for index, cell_id in enumerate(submission.cells)
    }


@contextmanager
def launching(run: Path) -> Iterator[None]:
    """Keep any second submit of the study out while the block runs.

    Raises
    ------
    LaunchBusyError
        Somebody else is in.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / "launch.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LaunchBusyError(
                f"another submit of this study is at work ({file.read().strip()}); wait for it"
            ) from error
        except OSError:
            # A file system without locks: two submits at once go unnoticed there.
            pass
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}, since {now_utc()}")
        file.flush()
        yield


def _append(run: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """One line at the end, on disk when this returns; the line's content with its time."""
    entry = {"utc": now_utc(), **entry}
    run.mkdir(parents=True, exist_ok=True)
    with (run / "journal.jsonl").open("a+b") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        line = json.dumps(entry).encode() + b"\n"
        file.write(b"\n" + line if torn else line)
        file.flush()
        os.fsync(file.fileno())
    return entry
