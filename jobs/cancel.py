"""Cancel what a study has queued or running on SLURM; results and checkpoints stay.

``python -m jobs.cancel GRID``. The local pool is stopped with Ctrl-C where it runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from jobs import command, journal, slurm
from jobs.studies import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return command.run(_cancel, name="cancel", describe=__doc__, argv=argv)


def _cancel(study: Study, _options: argparse.Namespace) -> int:
    console = Console(soft_wrap=True, highlight=False)
    sent = {job.job_id for job in journal.read(study.run) if job.job_id is not None}
    live = (
        [element for element in slurm.live() if element.partition("_")[0] in sent] if sent else []
    )
    slurm.cancel(sorted({element.partition("_")[0] for element in live}))
    if live:
        console.print(f"cancelled {len(live)} queued or running jobs of {study.name}")
        console.print(f"send them again with: make resubmit GRID={study.grid}")
    else:
        console.print(f"nothing to cancel: SLURM holds no job of {study.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
