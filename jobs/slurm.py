"""SLURM: the only code that calls its commands. Lists of arguments, time-outs, no shell.

submitit writes the batch scripts and the pickles. A pickle holds a function of `jobs.worker` and
strings.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import journal
from jobs.arrays import Array, cell_parameters, merge_parameters
from jobs.journal import Submission
from jobs.site import Site
from jobs.studies import Study

_CALL_S = 60


class SlurmError(RuntimeError):
    """A SLURM command that failed or did not answer: which one, and its words."""


def executor_of(site: Site) -> str:
    """``local`` or ``slurm``: what the site says; by itself, slurm only where it is real.

    Real means sbatch and srun on the PATH and either a ``[slurm]`` section in site.toml or an
    answer from the controller: packages alone make no cluster.
    """
    if site.execution.executor != "auto":
        return site.execution.executor
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        return "local"
    return "slurm" if site.describes_slurm or _answers() else "local"


def live() -> dict[str, str]:
    """SLURM's id → state word, of every element of this user that is queued or runs.

    Raises
    ------
    SlurmError
        squeue failed: then nothing is known, least of all that a job is over.
    """
    listed = _call("squeue", "--me", "--array", "--noheader", "--format=%i|%T")
    rows = (line.split("|") for line in listed.splitlines() if "|" in line)
    return {identity.strip(): state.strip() for identity, state in rows}


def ended(job_ids: Sequence[str]) -> dict[str, str]:
    """SLURM's id → last word of the accounting, of all elements of these jobs.

    A step killed for memory speaks for its job, whose own word is only FAILED. {} where there is
    no accounting.
    """
    if not job_ids or shutil.which("sacct") is None:
        return {}
    wanted = f"--jobs={','.join(job_ids)}"
    try:
        listed = _call("sacct", "--noheader", "--parsable2", "--format=JobID,State", wanted)
    except SlurmError:
        return {}
    words: dict[str, str] = {}
    for identity, state in (line.split("|") for line in listed.splitlines() if "|" in line):
        jobs, _, step = identity.partition(".")
        word = state.split()[0].rstrip("+") if state.strip() else "UNKNOWN"
        if not step or word.startswith("OUT_OF_ME"):
            words.update(dict.fromkeys(elements(jobs), word))
    return words


def elements(identity: str) -> list[str]:
    """The array elements that one id of SLURM's lists stands for.

    >>> elements("12_[0-2,5%4]")
    ['12_0', '12_1', '12_2', '12_5']
    """
    job_id, bracket, ranges = identity.partition("_[")
    if not bracket:
        return [identity]
    found = []
    for part in ranges.rstrip("]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += [f"{job_id}_{at}" for at in range(int(first), int(last or first) + 1)]
    return found


def find(name: str) -> str | None:
    """Job id of a job name of this user, live or over; None when SLURM never heard of it."""
    listed = _call("squeue", "--me", "--states=all", "--noheader", "--format=%F", f"--name={name}")
    if not listed.strip():
        try:
            listed = _call(
                "sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID",
                "--starttime=now-30days", f"--name={name}",
            )  # fmt: skip
        except SlurmError:
            return None
    known = re.match(r"\d+", listed.strip())
    return known.group() if known else None


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs, arrays or single elements."""
    if job_ids:
        _call("scancel", *job_ids)


def most_elements(site: Site) -> int:
    """Most elements one array may have here."""
    if site.slurm.max_array_size is not None:
        return site.slurm.max_array_size
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _call("scontrol", "show", "config"), re.M)
    if found is None:
        raise SlurmError(
            "scontrol show config names no MaxArraySize; set [slurm] max_array_size in site.toml"
        )
    return int(found.group(1))


def send(study: Study, wanted: Sequence[Array]) -> None:
    """Send arrays, each with its intent written first, and a merge job behind all of them.

    Raises
    ------
    SlurmError
        sbatch refused, or cannot be told to have taken, one of them; the earlier ones stand.
    """
    from jobs import worker

    site_file = str(study.site.file)
    sent = []
    for array in wanted:
        parameters = cell_parameters(array, site=study.site)
        calls = [(site_file, study.name, cell_id) for cell_id in array.cells]
        sent.append(_send(study, worker.work, calls, cells=array.cells, parameters=parameters))
    parameters = merge_parameters(sent, site=study.site)
    _send(study, worker.merge, [(site_file, study.name)], cells=(), parameters=parameters)


def repair(study: Study) -> None:
    """Settle intents whose launcher died before it heard from sbatch: adopt the job, or void."""
    for lone in journal.read(study.run):
        if lone.job_id is None and not lone.is_void:
            settle(study, lone, job_id=find(lone.name), why="SLURM knows no job of this name")


def settle(study: Study, lone: Submission, *, job_id: str | None, why: str) -> None:
    """Adopt the job of an intent, or void the intent where there is none.

    submitit names its pickles after the job once sbatch has answered; an adopted job waits for
    those names.
    """
    from submitit.core.utils import DelayedSubmission

    folder = private_folder(study, lone.name)
    if job_id is None:
        shutil.rmtree(folder)
        journal.void(study.run, name=lone.name, why=why)
        return
    sent = replace(lone, job_id=job_id)
    for pickle in folder.glob("*.pkl"):
        if not pickle.stem.endswith("_submitted"):
            called_with = DelayedSubmission.load(pickle).args
            index = sent.cells.index(called_with[-1]) if sent.cells else 0
            pickle.rename(folder / f"{sent.element(index)}_submitted.pkl")
    journal.accept(study.run, name=lone.name, job_id=job_id)


def _send(
    study: Study,
    function: Any,
    calls: Sequence[tuple[str, ...]],
    *,
    cells: tuple[str, ...],
    parameters: dict[str, Any],
) -> str:
    """Send one array, or one job; returns its id."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    name = f"glm-{study.name}-{uuid.uuid4().hex[:8]}"
    executor = SlurmExecutor(folder=private_folder(study, name))
    executor.update_parameters(job_name=name, **parameters)
    lone = journal.intend(study.run, name=name, cells=cells)
    try:
        with _clean_environment():
            tasks = executor.map_array(function, *zip(*calls, strict=True))
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        job_id = find(name)
        settle(study, lone, job_id=job_id, why=str(error))
        if job_id is None:
            raise SlurmError(f"sbatch refused {name}: {error}") from error
    else:
        job_id = str(tasks[0].job_id).partition("_")[0]
        journal.accept(study.run, name=name, job_id=job_id)
    return job_id


def private_folder(study: Study, name: str) -> Path:
    """Folder of submitit for one submission: pickles are code, so only their owner may write."""
    folder = study.run / "submitit" / name
    for private in (folder.parent, folder):
        private.mkdir(parents=True, exist_ok=True)
        private.chmod(0o700)
    return folder


def _answers() -> bool:
    try:
        _call("sinfo", "--noheader", timeout_s=10)
    except SlurmError:
        return False
    return True


def _call(*command: str, timeout_s: float = _CALL_S) -> str:
    """Standard output of one SLURM command."""
    try:
        with _clean_environment():
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not on the PATH; is this a login node?") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} did not answer within {timeout_s:g} s") from error
    if done.returncode:
        raise SlurmError(f"{' '.join(command)}: {done.stderr.strip() or f'exit {done.returncode}'}")
    return done.stdout


@contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide what an enclosing job left in the environment; it would shape the jobs sent."""
    inherited = ("SLURM_", "SBATCH_", "SRUN_", "SLURMD_", "SUBMITIT_")
    hidden = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(inherited) and name != "SLURM_CONF"
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
