"""Send every cell of a study that has no result yet; what is done stays done.

``python -m jobs.submit GRID [--dry-run]``. On a cluster: arrays, and a merge job behind them.
Elsewhere: the local pool, then the merge, the table of results and the report.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

from rich.console import Console

from jobs import command, journal, local, slurm, truth
from jobs.arrays import Array, arrays
from jobs.resources import by_shape, cells_at_once, shape
from jobs.studies import (
    Study,
    StudyError,
    backbones,
    missing_inputs,
    no_corpus,
    write_cells,
)
from jobs.truth import Standing

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    flags = {"--dry-run": "print what would be sent and send nothing"}
    return command.run(_submit, name="submit", describe=__doc__, argv=argv, flags=flags)


def _submit(study: Study, options: argparse.Namespace) -> int:
    if options.dry_run:
        return preview(study, states=truth.TO_SUBMIT)
    return launch(study, states=truth.TO_SUBMIT)


def launch(
    study: Study,
    *,
    states: Sequence[str],
    prepare: Callable[[Study, dict[str, Standing]], None] | None = None,
) -> int:
    """Send the cells whose state is one of `states`.

    Parameters
    ----------
    prepare
        Called with the chosen cells once all inputs are known to be there, before any is sent.

    Raises
    ------
    StudyError
        An input is missing, or another submit is at work; nothing was sent.
    """
    console = Console(soft_wrap=True, highlight=False)
    executor = slurm.executor_of(study.site)
    try:
        with journal.launching(study.run):
            if executor == "slurm":
                slurm.repair(study)
            standings = truth.look(study)
            chosen = {known: s for known, s in standings.items() if s.state in states}
            check_inputs(study, chosen)
            console.print(summary(study, standings, chosen=chosen))
            if not chosen:
                return 0
            if prepare is not None:
                prepare(study, chosen)
            write_cells(study)
            if executor == "local":
                return _run_here(study, list(chosen), console=console)
            slurm.send(study, planned_arrays(study, list(chosen)))
    except journal.LaunchBusyError as error:
        raise StudyError(f"{study.name}: {error}") from error
    console.print(f"sent; look with: make status GRID={study.grid}")
    return 0


def preview(study: Study, *, states: Sequence[str]) -> int:
    """Print what `launch` would send; writes nothing."""
    console = Console(soft_wrap=True, highlight=False)
    standings = truth.look(study)
    chosen = {known: s for known, s in standings.items() if s.state in states}
    check_inputs(study, chosen)
    console.print(summary(study, standings, chosen=chosen))
    if not chosen:
        return 0
    if slurm.executor_of(study.site) == "local":
        for cell_id in chosen:
            console.print(f"local pool: {cell_id}")
        return 0
    for array in planned_arrays(study, list(chosen)):
        needed = array.shape
        console.print(
            f"array of {len(array.cells)}, {array.at_once} at once: {needed.gpus} GPU, "
            f"{needed.cpus} CPUs, {needed.mem_gb} GB, {needed.minutes} min each"
        )
        for cell_id in array.cells:
            console.print(f"  {cell_id}")
    return 0


def planned_arrays(study: Study, cell_ids: Sequence[str]) -> tuple[Array, ...]:
    """The arrays that carry these cells."""
    shapes = {}
    for cell_id in cell_ids:
        cell = study.cells[cell_id]
        workload = study.workloads[cell.corpus]
        if workload is None:
            raise StudyError(no_corpus(study, cell.corpus))
        shapes[cell_id] = shape(cell, workload, site=study.site, executor="slurm")
    return arrays(
        by_shape(shapes),
        most=slurm.most_elements(study.site),
        parallelism=study.site.slurm.array_parallelism,
    )


def check_inputs(study: Study, cell_ids: Iterable[str]) -> None:
    """Refuse before anything is queued if a corpus, token file or model is missing.

    Raises
    ------
    StudyError
        With every missing input.
    """
    rows = backbones(study)
    pairs = {(study.cells[known].backbone, study.cells[known].corpus) for known in cell_ids}
    lacking = {
        problem
        for backbone, corpus in pairs
        for problem in missing_inputs(study, rows[backbone], corpus=corpus)
    }
    if lacking:
        raise StudyError(f"{study.name} is not ready:\n  " + "\n  ".join(sorted(lacking)))


def summary(study: Study, standings: dict[str, Standing], *, chosen: Collection[str]) -> str:
    """What is there, what is sent, and where to go on with the rest; a few lines."""
    counts = Counter(standing.state for standing in standings.values())
    told = ", ".join(f"{counts[state]} {state}" for state in truth.STATES if counts[state])
    lines = [f"{len(standings)} cells: {told}"]
    lines.append(f"{len(chosen)} to send" if chosen else "nothing to do")
    over = sum(
        standing.state in truth.TO_RESUBMIT and known not in chosen
        for known, standing in standings.items()
    )
    if over:
        again = f"make resubmit GRID={study.grid}"
        lines.append(f"{over} ended without a result: {again} sends them again")
    report = study.workspace.report(study.name) / "report.html"
    if not chosen and report.is_file():
        lines.append(f"report: {report}")
    return "\n".join(lines)


def _run_here(study: Study, cell_ids: Sequence[str], *, console: Console) -> int:
    """The local way to the end: cells, merge, table, report."""
    console.print(f"on this machine, {cells_at_once(study.site)} at a time; Ctrl-C stops them")
    outcome = local.run_cells(study, cell_ids, console=console)
    ends = [ended.state for ended in outcome.values()]
    if len(outcome) < len(cell_ids) or "stopped" in ends:
        console.print(f"stopped; go on with: make submit GRID={study.grid}")
        return _INTERRUPTED
    for cell_id, ended in outcome.items():
        if ended.state != "done":
            told = f"{ended.state}: {cell_id}: {ended.why}\n  log: {ended.log}"
            console.print(told, markup=False)
    if not any(truth.check_result(study, known)[0] == "valid" for known in study.cells):
        return 1
    return _finish(study, console=console) or int(set(ends) != {"done"})


def _finish(study: Study, *, console: Console) -> int:
    """Merge, print the table, write the report; 0 unless one of them fails."""
    from analysis import merge, report, tables

    arguments = [study.name, *study.site.arguments]
    merged = merge.main(arguments)
    if merged not in (0, 6):
        return merged
    if failed := tables.main(arguments) or report.main(arguments):
        return failed
    console.print(f"report: {study.workspace.report(study.name) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
