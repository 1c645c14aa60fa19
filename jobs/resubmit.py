"""Send again the cells that ended without a result, and only those.

``python -m jobs.resubmit GRID [--dry-run]``: failed, cancelled, lost, and corrupt results, which
are moved to ``runs/<study>/quarantine`` first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from gpuwork.schema import now_utc
from jobs import command, truth
from jobs.studies import Study
from jobs.submit import launch, preview
from jobs.truth import Standing


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    flags = {"--dry-run": "print what would be sent and send nothing"}
    return command.run(_resubmit, name="resubmit", describe=__doc__, argv=argv, flags=flags)


def _resubmit(study: Study, options: argparse.Namespace) -> int:
    if options.dry_run:
        return preview(study, states=truth.TO_RESUBMIT)
    return launch(study, states=truth.TO_RESUBMIT, prepare=quarantine)


def quarantine(study: Study, chosen: dict[str, Standing]) -> None:
    """Move corrupt result files out of the results, and say where each went."""
    console = Console(soft_wrap=True, highlight=False)
    folder = study.run / "quarantine"
    for cell_id, standing in chosen.items():
        console.print(f"again: {cell_id} ({standing.state}: {standing.why})")
        if standing.state == "corrupt":
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{cell_id}.{now_utc().replace(':', '')}.h5"
            study.workspace.result(study.name, cell_id).replace(target)
            console.print(f"  moved to {target}")


if __name__ == "__main__":
    sys.exit(main())
