"""What an array task, or a process of the local pool, executes: one cell.

The worker never calls SLURM. Asked to stop, it leaves a checkpoint and exits with 85; who started
it starts it again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from jobs import attempts, truth
from jobs.arrays import STOPPED
from jobs.resources import execution
from jobs.site import read_site
from jobs.studies import Study, StudyError, read_cells

_INCOMPLETE = 6
"""Exit code of `analysis.merge` when cells are missing; what is there is merged."""


def work(site_file: str, study: str, cell_id: str) -> None:
    """Run one cell to its result file, or to a checkpoint.

    Raises
    ------
    SystemExit
        With code 85: stopped, to be started again.
    StudyError
        The study no longer has this cell.
    Exception
        Whatever made the cell fail; recorded first.
    """
    should_stop = _listen()
    site = read_site(Path(site_file))
    run = site.workspace.run(study)
    cells = read_cells(run)
    if cell_id not in cells:
        raise StudyError(f"{cell_id} is not in {run / 'cells.json'}; the grid was changed since")
    opened = Study(name=study, grid=study, site=site, cells=cells, workloads={})
    with attempts.hold(run, cell_id):
        if truth.check_result(opened, cell_id)[0] != "valid":
            _attempt(opened, cell_id, should_stop=should_stop)


def merge(site_file: str, study: str) -> None:
    """Merge a study's results and write its report: the job behind the arrays.

    Raises
    ------
    SystemExit
        Merge or report failed, with its exit code.
    """
    from analysis import merge as merging
    from analysis import report

    arguments = [study, *read_site(Path(site_file)).arguments]
    merged = merging.main(arguments)
    if merged not in (0, _INCOMPLETE):
        sys.exit(merged)
    if reported := report.main(arguments):
        sys.exit(reported)


def _attempt(study: Study, cell_id: str, *, should_stop: Callable[[], bool]) -> None:
    """One attempt: start record, training, end record, exit code."""
    import submitit

    environment = submitit.JobEnvironment()
    attempt = attempts.start(
        study.run, cell_id, job=environment.job_id, log=environment.paths.stderr
    )
    try:
        from gpuwork.run import run

        is_done = run(
            study.cells[cell_id],
            execution(study.cells[cell_id], site=study.site, executor=environment.cluster),
            workspace=study.workspace,
            study=study.name,
            attempt=attempt.number,
            should_stop=should_stop,
            on_progress=_reporter(study.run, cell_id),
        )
    except Exception as error:
        attempts.end(study.run, cell_id, attempt, ended="failed", error=error)
        raise
    attempts.end(study.run, cell_id, attempt, ended="done" if is_done else "stopped")
    if not is_done:
        # Python puts default handlers back while it ends: a second signal then would kill a
        # worker whose checkpoint is safe, and nobody would start it again.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(STOPPED)


def _listen() -> Callable[[], bool]:
    """Take over submitit's signals; returns whether a stop was asked for or time is up.

    SLURM's USR2 reaches every process of the step, and forked children inherit handlers: theirs
    are put back, or each of them would be stopped too.
    """
    asked = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    def in_child() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGUSR2, note)
    signal.signal(signal.SIGTERM, note)
    os.register_at_fork(after_in_child=in_child)
    stop_at = float(os.environ.get("GLM_GRID_STOP_AT", "inf"))
    return lambda: asked or time.time() >= stop_at


def _reporter(run: Path, cell_id: str) -> Callable[[dict[str, float | int | str]], None]:
    """Writes progress once a second at most."""
    last_s = float("-inf")

    def report(progress: dict[str, float | int | str]) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= 1:
            last_s = time.monotonic()
            attempts.write_progress(run, cell_id, progress)

    return report
