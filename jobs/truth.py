"""Where every cell stands. Files first, SLURM's words last; the first that answers wins.

A valid result file → a live job, or a live process → the record of the newest attempt → the
accounting → lost. SLURM's words are hints: a preemption may read TIMEOUT, and without accounting
there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py

from gpuwork import schema
from jobs import attempts, journal, slurm
from jobs.attempts import Attempt
from jobs.studies import Study

STATES = (
    "done", "running", "queued", "stopped", "new", "failed", "cancelled", "corrupt", "lost",
)  # fmt: skip
TO_SUBMIT = ("new", "stopped")
"""Never tried, or stopped with a checkpoint: what `jobs.submit` sends."""
TO_RESUBMIT = ("stopped", "failed", "cancelled", "corrupt", "lost")
"""Over without a result: what `jobs.resubmit` sends, when a person says so."""

_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD")
_ALIVE = (
    *_QUEUED, "RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED",
)  # fmt: skip
"""Words of a job that is not over; the accounting lags behind squeue and has no say in that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of one cell.

    Attributes
    ----------
    result
        ``valid``, ``corrupt``, or None where there is no file.
    flaw
        What is wrong with a corrupt result.
    live
        squeue's word for the cell's newest job; None when it lists none.
    is_held
        A process holds the cell's lock.
    element, submitted_utc
        The newest job that carried the cell; None when none did.
    word
        The accounting's word for that job.
    """

    result: str | None = None
    flaw: str = ""
    live: str | None = None
    is_held: bool = False
    attempt: Attempt | None = None
    element: str | None = None
    submitted_utc: str = ""
    word: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One cell's state, one of `STATES`, and why.

    Attributes
    ----------
    log
        Where to read on; None when there is no log.
    progress
        What the running cell last said; {} for others.
    """

    state: str
    why: str = ""
    job: str | None = None
    log: str | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)


def look(study: Study) -> dict[str, Standing]:
    """The standing of every cell; two calls to SLURM at most.

    Raises
    ------
    SlurmError
        squeue does not answer while jobs of the study may be alive.
    """
    run = study.run
    carried = journal.newest_elements(run)
    results = {cell_id: check_result(study, cell_id) for cell_id in study.cells}
    open_jobs = {
        cell_id: element
        for cell_id, (element, _) in carried.items()
        if results.get(cell_id, ("", ""))[0] != "valid"
    }
    live = slurm.live() if open_jobs else {}
    silent = {element for element in open_jobs.values() if element not in live}
    words = slurm.ended(sorted({element.partition("_")[0] for element in silent}))
    standings = {}
    for cell_id, before in results.items():
        element, submitted_utc = carried.get(cell_id, (None, ""))
        # A worker writes the result, then the attempt's end, then it lets go and leaves the queue;
        # read the other way round, a cell that ends meanwhile is alive or done, never lost.
        is_held, attempt = attempts.is_held(run, cell_id), attempts.last(run, cell_id)
        result, flaw = before if before[0] == "valid" else check_result(study, cell_id)
        evidence = Evidence(
            result=result,
            flaw=flaw,
            live=live.get(element or ""),
            is_held=is_held,
            attempt=attempt,
            element=element,
            submitted_utc=submitted_utc,
            word=words.get(element or ""),
        )
        standings[cell_id] = _standing(run, cell_id, evidence)
    return standings


def decide(evidence: Evidence) -> tuple[str, str]:
    """State and reason; the rows are tried from the top."""
    newest = _attempt_of_newest_job(evidence)
    ended = newest.ended if newest else None
    said = f"{newest.error}: {newest.message}" if newest else ""
    word, job = evidence.word or "", evidence.element
    if word in _ALIVE:
        word = ""
    rows = (
        (evidence.result == "valid", "done", ""),
        (evidence.live in _QUEUED, "queued", ""),
        (bool(evidence.live) or evidence.is_held, "running", ""),
        (evidence.result == "corrupt", "corrupt", evidence.flaw),
        (ended == "failed", "failed", said),
        (word == "CANCELLED", "cancelled", f"job {job} was cancelled"),
        (ended == "stopped", "stopped", "a checkpoint is there"),
        (ended == "done", "lost", "ended well, but its result file is gone"),
        (word not in ("", "COMPLETED"), "failed", f"SLURM says {word} of job {job}"),
        (newest is not None, "lost", "its process died without a word"),
        (job is not None, "lost", f"job {job} is over and left no trace"),
    )
    return next(((state, why) for holds, state, why in rows if holds), ("new", ""))


def check_result(study: Study, cell_id: str) -> tuple[str | None, str]:
    """``valid``, ``corrupt`` and what is wrong, or None: the cell's result file, read whole."""
    path = study.workspace.result(study.name, cell_id)
    if not path.exists():
        return None, ""
    try:
        schema.check(path, "result")
    except schema.SchemaError as error:
        return "corrupt", str(error)
    with h5py.File(path, "r", locking=False) as file:
        named = str(file.attrs["cell_id"])
    if named != cell_id:
        return "corrupt", f"{path}: holds the cell {named}"
    return "valid", ""


def _attempt_of_newest_job(evidence: Evidence) -> Attempt | None:
    """The newest attempt, unless it belongs to a job older than the newest one."""
    attempt = evidence.attempt
    if attempt is None or evidence.element in (None, attempt.job):
        return attempt
    return attempt if attempt.started_utc > evidence.submitted_utc else None


def _standing(run: Path, cell_id: str, evidence: Evidence) -> Standing:
    state, why = decide(evidence)
    newest = _attempt_of_newest_job(evidence)
    log = newest.log if newest else None
    if log is None and evidence.element is not None:
        unheard = (run / "submitit").glob(f"*/{evidence.element}_0_log.err")
        log = next(map(str, unheard), None)
    return Standing(
        state=state,
        why=why,
        job=newest.job if newest else evidence.element,
        log=log,
        progress=attempts.read_progress(run, cell_id) if state == "running" else {},
    )
