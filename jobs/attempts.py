"""Attempts at a cell on disk: who runs it, how each attempt began and ended, how far it is.

``runs/<study>/attempts/<cell_id>/<n>.json`` is one attempt, ``lock`` is held by the process that
runs the cell, ``runs/<study>/progress/<cell_id>.json`` is the newest progress.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpuwork.schema import commit, now_utc

_TRACEBACK_LINES = 40

_LOCK_TRIES = 10
"""Tries, 0.2 s apart: `is_held` takes the lock for an instant when somebody asks for the status."""


class CellBusyError(RuntimeError):
    """Another process on this file system runs the cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of one cell.

    Attributes
    ----------
    job
        SLURM's id of the array element, or the process id of the local job.
    log
        File with the worker's standard error.
    ended
        ``done``, ``stopped`` (a checkpoint is there), ``failed``; None while it runs, or when it
        died without a word.
    """

    number: int
    node: str
    job: str
    pid: int
    log: str
    started_utc: str
    ended: str | None = None
    ended_utc: str | None = None
    error: str | None = None
    message: str | None = None
    traceback: str | None = None


@contextmanager
def hold(run: Path, cell_id: str) -> Iterator[None]:
    """Hold the cell's lock; the kernel lets go of it when the process dies, however it dies.

    Raises
    ------
    CellBusyError
        Another process holds it.
    """
    path = _folder(run, cell_id) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for patience in range(_LOCK_TRIES, 0, -1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if patience == 1:
                    raise CellBusyError(f"{cell_id}: another process runs it ({path})") from error
                time.sleep(0.2)
            except OSError:
                # A file system without locks: there squeue alone keeps two jobs off one cell.
                break
        yield


def is_held(run: Path, cell_id: str) -> bool:
    """Whether a process that this file system knows of runs the cell."""
    path = _folder(run, cell_id) / "lock"
    if not path.exists():
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def start(run: Path, cell_id: str, *, job: str, log: Path) -> Attempt:
    """Record that this process begins the cell's next attempt; earlier progress is void."""
    attempt = Attempt(
        number=next_number(run, cell_id),
        node=socket.gethostname(),
        job=job,
        pid=os.getpid(),
        log=str(log),
        started_utc=now_utc(),
    )
    _write(run, cell_id, attempt)
    _progress(run, cell_id).unlink(missing_ok=True)
    return attempt


def end(
    run: Path, cell_id: str, attempt: Attempt, *, ended: str, error: Exception | None = None
) -> None:
    """Record how an attempt ended."""
    trace = "" if error is None else "".join(traceback.format_exception(error))
    finished = replace(
        attempt,
        ended=ended,
        ended_utc=now_utc(),
        error=None if error is None else type(error).__name__,
        message=None if error is None else str(error),
        traceback="\n".join(trace.splitlines()[-_TRACEBACK_LINES:]) or None,
    )
    _write(run, cell_id, finished)


def last(run: Path, cell_id: str) -> Attempt | None:
    """The cell's newest attempt; None when there was none."""
    numbers = [int(file.stem) for file in _folder(run, cell_id).glob("[0-9]*.json")]
    if not numbers:
        return None
    return Attempt(**json.loads((_folder(run, cell_id) / f"{max(numbers)}.json").read_text()))


def next_number(run: Path, cell_id: str) -> int:
    """Number of the attempt that `start` would begin now."""
    newest = last(run, cell_id)
    return 0 if newest is None else newest.number + 1


def write_progress(run: Path, cell_id: str, progress: Mapping[str, float | int | str]) -> None:
    """Replace the cell's progress file; not worth an fsync each second, so it may be lost."""
    path = _progress(run, cell_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({**progress, "updated_utc": now_utc()}))
    temporary.replace(path)


def read_progress(run: Path, cell_id: str) -> dict[str, Any]:
    """How far the cell is: phase, epoch, step, sequences/s, seconds left; {} when unknown."""
    path = _progress(run, cell_id)
    if not path.exists():
        return {}
    try:
        entries: dict[str, Any] = json.loads(path.read_text())
    except ValueError:
        return {}
    return entries


def _folder(run: Path, cell_id: str) -> Path:
    return run / "attempts" / cell_id


def _progress(run: Path, cell_id: str) -> Path:
    return run / "progress" / f"{cell_id}.json"


def _write(run: Path, cell_id: str, attempt: Attempt) -> None:
    path = _folder(run, cell_id) / f"{attempt.number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(attempt), indent=1))
    commit(temporary, path)
