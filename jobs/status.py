"""Where a study stands: done, running, queued, failed and why. Two calls to SLURM at most.

``python -m jobs.status GRID [--json]``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Column, Table

from jobs import command, truth
from jobs.display import STYLE, progress_cells
from jobs.studies import Study, backbones, cell_label, strategy_label
from jobs.truth import Standing


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    flags = {"--json": "print one JSON object per cell, for programs"}
    return command.run(_status, name="status", describe=__doc__, argv=argv, flags=flags)


def _status(study: Study, options: argparse.Namespace) -> int:
    standings = truth.look(study)
    console = Console(soft_wrap=True, highlight=False)
    if options.json:
        entries = [{"cell_id": known, **asdict(found)} for known, found in standings.items()]
        console.out(json.dumps(entries, indent=1), highlight=False)
        return 0
    console.print(_overview(study, standings))
    if any(standing.state == "running" for standing in standings.values()):
        console.print(_running(study, standings))
    for cell_id, standing in standings.items():
        if standing.state in truth.TO_RESUBMIT:
            log = f"\n  log: {standing.log}" if standing.log else ""
            console.print(f"{standing.state}: {cell_id}: {standing.why}{log}", markup=False)
    counts = Counter(standing.state for standing in standings.values())
    told = ", ".join(f"{counts[state]} {state}" for state in truth.STATES if counts[state])
    console.print(f"{len(standings)} cells: {told}")
    return 0


def _overview(study: Study, standings: Mapping[str, Standing]) -> Table:
    """Strategy x backbone; several seeds or learning rates share a field."""
    names = tuple(backbones(study))
    table = Table(Column("strategy", no_wrap=True), *names, title=study.name)
    fields: dict[str, dict[str, list[str]]] = {}
    for cell_id, cell in study.cells.items():
        row = fields.setdefault(strategy_label(cell), {name: [] for name in names})
        row[cell.backbone].append(standings[cell_id].state)
    for label, row in fields.items():
        table.add_row(label, *(_field(row[name]) for name in names))
    return table


def _field(states: Sequence[str]) -> str:
    """``done`` of a single cell, ``2 done, 1 failed`` of several."""
    counts = Counter(states)
    known = [state for state in truth.STATES if counts[state]]
    number = {state: "" if len(states) == 1 else f"{counts[state]} " for state in known}
    return ", ".join(f"[{STYLE[state]}]{number[state]}{state}[/]" for state in known)


def _running(study: Study, standings: Mapping[str, Standing]) -> Table:
    table = Table(Column("running", no_wrap=True), "job", "epoch", "step", "seq/s", "left")
    for cell_id, standing in standings.items():
        if standing.state == "running":
            shown = progress_cells(standing.progress) or ("", "", "", "")
            table.add_row(cell_label(study.cells[cell_id]), standing.job or "", *shown)
    return table


if __name__ == "__main__":
    sys.exit(main())
