"""What a study would cost, before anything is queued.

``python -m jobs.plan GRID``. Works without corpus, weights and cluster: sizes that are not there
yet are those the study expects. All figures are predictions from arithmetic, none is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gpuwork.spec import Cell
from jobs import command, slurm
from jobs.resources import Workload, cpu_hours, device, execution, gpu_hours, shape
from jobs.studies import Study, backbones, missing_inputs, strategy_label
from jobs.truth import check_result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return command.run(_plan, name="plan", describe=__doc__, argv=argv)


def _plan(study: Study, _options: argparse.Namespace) -> int:
    console = Console(highlight=False)
    executor = slurm.executor_of(study.site)
    on = device(study.site, executor=executor)
    console.print(_cells(study, executor=executor))
    lines = [
        f"{len(study.cells)} cells, {_done(study)} done; executor {executor}, device {on}",
        f"predicted in total: {_total(study, in_gpu_hours=_in_gpu_hours(study, on=on))}",
    ]
    console.print("\n".join([*lines, *_inputs(study)]), soft_wrap=True, markup=False)
    return 0


def _in_gpu_hours(study: Study, *, on: str) -> bool:
    """Whether hours on a GPU are told: on a CPU too while a study's sizes are only expected.

    Those are the published ones, months of a CPU core.
    """
    return on == "cuda" or any(
        load is not None and not study.workspace.corpus(name).exists()
        for name, load in study.workloads.items()
    )


def _total(study: Study, *, in_gpu_hours: bool) -> str:
    sized = _sized(study)
    if not sized:
        return f"unknown; {len(study.cells)} cells are of unknown size"
    unsized = len(study.cells) - len(sized)
    left_out = f"; {unsized} cells of unknown size are left out" if unsized else ""
    if in_gpu_hours:
        hours = sum(gpu_hours(cell, load) for cell, load in sized)
        return f"{hours:,.1f} GPU-hours on an H100{left_out}"
    hours = sum(cpu_hours(cell, load, threads=1) for cell, load in sized)
    return f"{core_time(hours)} of a CPU core{left_out}"


def core_time(hours: float) -> str:
    """Hours in the unit a person would take: minutes below 2 hours, days from 1,000 on."""
    if hours < 2:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 1000 else f"{hours / 24:,.0f} days"


def _sized(study: Study) -> list[tuple[Cell, Workload]]:
    """Cells whose corpus is there, or has an expected size."""
    loads = ((cell, study.workloads[cell.corpus]) for cell in study.cells.values())
    return [(cell, load) for cell, load in loads if load is not None]


def _cells(study: Study, *, executor: str) -> Table:
    """A row per cell; the batch as accumulation x micro-batch, the limit under SLURM alone."""
    in_gpu_hours = _in_gpu_hours(study, on=device(study.site, executor=executor))
    table = Table(title=f"{study.name}: predicted", box=SIMPLE_HEAD, pad_edge=False)
    limits = ("limit",) if executor == "slurm" else ()
    for name in ("backbone", "strategy"):
        table.add_column(name, no_wrap=True)
    for name in ("seed", "lr", "batch", *limits, "GPU-hours" if in_gpu_hours else "core minutes"):
        table.add_column(name, justify="right")
    for cell in study.cells.values():
        load, recipe = study.workloads[cell.corpus], cell.recipe
        run = execution(cell, site=study.site, executor=executor)
        minutes = predicted = "?"
        if load is not None:
            minutes = f"{shape(cell, load, site=study.site, executor=executor).minutes} min"
            predicted = f"{cpu_hours(cell, load, threads=1) * 60:,.1f}"
            if in_gpu_hours:
                predicted = f"{gpu_hours(cell, load):.2f}"
        batch = f"{recipe.effective_batch // run.micro_batch} x {run.micro_batch}"
        science = (cell.backbone, strategy_label(cell), str(cell.seed), f"{recipe.learning_rate:g}")
        table.add_row(*science, batch, *(minutes for _ in limits), predicted)
    return table


def _done(study: Study) -> int:
    return sum(check_result(study, cell_id)[0] == "valid" for cell_id in study.cells)


def _inputs(study: Study) -> list[str]:
    """What must be made before `jobs.submit`, each with how many cells wait for it."""
    rows = backbones(study)
    pairs = Counter((cell.backbone, cell.corpus) for cell in study.cells.values())
    waiting: Counter[str] = Counter()
    for (backbone, corpus), number in pairs.items():
        for problem in missing_inputs(study, rows[backbone], corpus=corpus):
            waiting[problem] += number
    if not waiting:
        return ["inputs: all there"]
    return ["inputs that are missing:", *(f"  {what} ({n} cells)" for what, n in waiting.items())]


if __name__ == "__main__":
    sys.exit(main())
