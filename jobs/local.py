"""The local pool: cells as processes of submitit's local executor, a few at a time.

submitit's own local executor starts everything at once; here a cell starts when another has ended.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from jobs import attempts, truth, worker
from jobs.display import Display
from jobs.resources import cells_at_once, device
from jobs.slurm import private_folder
from jobs.studies import Study
from jobs.truth import Standing

_POLL_S = 0.25
_NO_LIMIT_MIN = 60 * 24 * 365


@dataclass(slots=True)
class _Running:
    """One started cell: submitit's job, the slot (the GPU's index), the number of the attempt."""

    job: Any
    slot: int
    number: int


def run_cells(study: Study, cell_ids: Sequence[str], *, console: Console) -> dict[str, Standing]:
    """Run cells in the pool until each has ended.

    Ctrl-C stops all of them with a checkpoint; a second one kills them.

    Returns
    -------
    dict
        Cell id → how its last process ended; ``stopped`` only after Ctrl-C; a cell that never
        started is missing.
    """
    slots = cells_at_once(study.site)
    waiting, free = deque(cell_ids), list(range(slots))
    running: dict[str, _Running] = {}
    outcome: dict[str, Standing] = {}
    with _interruptible() as interrupts, Display(study, cell_ids, console=console) as display:
        while running or (waiting and not interrupts()):
            while waiting and free and not interrupts():
                cell_id = waiting.popleft()
                slot = free.pop(0)
                number = attempts.next_number(study.run, cell_id)
                running[cell_id] = _Running(_start(study, cell_id, slot=slot), slot, number)
                display.started(cell_id)
            if interrupts():
                display.stopping()
                _stop(study, running, is_urgent=lambda: interrupts() > 1)
            for cell_id in [known for known, task in running.items() if task.job.done()]:
                task = running.pop(cell_id)
                free.append(task.slot)
                ended = how_it_ended(study, cell_id, number=task.number, log=task.job.paths.stderr)
                outcome[cell_id] = ended
                display.ended(cell_id, ended.state)
                if ended.state == "stopped" and not interrupts():
                    waiting.append(cell_id)
            display.refresh(running)
            time.sleep(_POLL_S)
    return outcome


def how_it_ended(study: Study, cell_id: str, *, number: int, log: Path) -> Standing:
    """How one process of a cell ended, from the files it left.

    Parameters
    ----------
    number
        Of the attempt that the process was to begin; an older one says nothing about it.
    log
        The process' standard error as submitit keeps it.
    """
    attempt = attempts.last(study.run, cell_id)
    result, flaw = truth.check_result(study, cell_id)
    if result != "valid" and (attempt is None or attempt.number < number):
        return Standing(state="lost", why="its process ended before it began", log=str(log))
    state, why = truth.decide(truth.Evidence(result=result, flaw=flaw, attempt=attempt))
    return Standing(state=state, why=why, log=attempt.log if attempt else str(log))


def _start(study: Study, cell_id: str, *, slot: int) -> Any:
    """Start one cell as a process of its own, deaf to the terminal's Ctrl-C."""
    from submitit import LocalExecutor
    from submitit.helpers import environment_variables

    executor = LocalExecutor(folder=private_folder(study, "local"))
    has_gpu = device(study.site, executor="local") == "cuda"
    gpus = {"gpus_per_node": 1, "visible_gpus": [slot]} if has_gpu else {}
    executor.update_parameters(timeout_min=_NO_LIMIT_MIN, **gpus)
    # The signal mask is inherited: Ctrl-C, or the end of the terminal, then reaches this process
    # alone, which asks the cells to stop at a step boundary instead of killing them in one.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        with environment_variables(OMP_NUM_THREADS=study.site.local.threads):
            return executor.submit(worker.work, str(study.site.file), study.name, cell_id)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _stop(study: Study, running: dict[str, _Running], *, is_urgent: Callable[[], bool]) -> None:
    """Ask every running cell to stop and wait for its checkpoint; kill it when that is urgent."""
    for task in running.values():
        if not task.job.done():
            # submitit's local job id is the process id of the controller, which hands this on.
            os.kill(int(task.job.job_id), signal.SIGTERM)
    while not all(task.job.done() for task in running.values()):
        if is_urgent():
            _kill(study, running)
        time.sleep(_POLL_S)


def _kill(study: Study, running: dict[str, _Running]) -> None:
    """Kill workers that did not stop; their controllers then end by themselves."""
    for cell_id, task in running.items():
        attempt = attempts.last(study.run, cell_id)
        if attempt is not None and attempt.ended is None and not task.job.done():
            with suppress(ProcessLookupError):
                os.kill(attempt.pid, signal.SIGKILL)


@contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """Turn Ctrl-C, SIGTERM and the end of the terminal into a number that can be asked for."""
    count = 0

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in caught}
    try:
        yield lambda: count
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
