"""The local pool: cells as processes of submitit's local executor, a few at a time.

submitit's own local executor starts everything at once; here a cell starts when another has ended.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

_POLL_S = 0.25
_NO_LIMIT_MIN = 60 * 24 * 365
_STOP_S = 30
"""Seconds a cell has to reach a step boundary and write its checkpoint after Ctrl-C."""


@dataclass(slots=True)
class _Running:
    """One started cell: submitit's job and the slot (the GPU's index) it takes."""

    job: Any
    slot: int


def run_cells(study: Study, cell_ids: Sequence[str], *, console: Console) -> dict[str, str]:
    """Run cells in the pool until each has ended; Ctrl-C stops all of them with a checkpoint.

    Returns
    -------
    dict
        Cell id → ``done``, ``failed``, ``lost`` or ``stopped``, the last only after Ctrl-C; a
        cell that never started is missing.
    """
    slots = cells_at_once(study.site)
    waiting, free = deque(cell_ids), list(range(slots))
    running: dict[str, _Running] = {}
    outcome: dict[str, str] = {}
    with _interruptible() as is_interrupted, Display(study, cell_ids, console=console) as display:
        while running or (waiting and not is_interrupted()):
            while waiting and free and not is_interrupted():
                cell_id = waiting.popleft()
                slot = free.pop(0)
                running[cell_id] = _Running(_start(study, cell_id, slot=slot), slot)
                display.started(cell_id)
            if is_interrupted():
                _stop(running, display=display)
            for cell_id in [known for known, task in running.items() if task.job.done()]:
                free.append(running.pop(cell_id).slot)
                outcome[cell_id] = how_it_ended(study, cell_id)
                display.ended(cell_id, outcome[cell_id])
                if outcome[cell_id] == "stopped" and not is_interrupted():
                    waiting.append(cell_id)
            display.refresh(running)
            time.sleep(_POLL_S)
    return outcome


def how_it_ended(study: Study, cell_id: str) -> str:
    """``done``, ``stopped``, ``failed`` or ``lost``, from the files the cell left."""
    evidence = truth.Evidence(
        result=truth.check_result(study, cell_id)[0],
        attempt=attempts.last(study.run, cell_id),
    )
    state, _ = truth.decide(evidence)
    return "lost" if state == "new" else state


def _start(study: Study, cell_id: str, *, slot: int) -> Any:
    """Start one cell as a process of its own, deaf to the terminal's Ctrl-C."""
    from submitit import LocalExecutor

    executor = LocalExecutor(folder=private_folder(study))
    gpus = {"gpus_per_node": 1, "visible_gpus": [slot]} if _has_gpu(study) else {}
    executor.update_parameters(timeout_min=_NO_LIMIT_MIN, **gpus)
    # The signal mask is inherited: Ctrl-C then reaches this process alone, which asks the cells
    # to stop at a step boundary instead of killing them in one.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(worker.work, str(study.site.file), study.name, cell_id)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _has_gpu(study: Study) -> bool:
    return device(study.site, executor="local") == "cuda"


def _stop(running: dict[str, _Running], *, display: Display) -> None:
    """Ask every running cell to stop and wait for it; the last word is a kill."""
    display.stopping()
    _signal_all(running, signal.SIGTERM)
    give_up_s = time.monotonic() + _STOP_S
    while time.monotonic() < give_up_s and not all(task.job.done() for task in running.values()):
        time.sleep(_POLL_S)
    _signal_all(running, signal.SIGKILL)


def _signal_all(running: dict[str, _Running], number: signal.Signals) -> None:
    """Signal the controllers, whose process ids are submitit's local job ids."""
    for task in running.values():
        if not task.job.done():
            os.kill(int(task.job.job_id), number)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that can be asked."""
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
