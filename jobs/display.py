"""What a person sees while the local pool runs: a live table, or a line per event in a file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs import attempts
from jobs.studies import Study, cell_label

STYLE = {
    "done": "green", "running": "cyan", "queued": "blue", "stopped": "yellow", "new": "dim",
    "failed": "red", "cancelled": "red", "corrupt": "red", "lost": "red", "waiting": "dim",
}  # fmt: skip


class Display:
    """A context that shows the cells of one pool; on a terminal live, elsewhere line by line.

    Parameters
    ----------
    cell_ids
        The cells of this run, in order.
    """

    def __init__(self, study: Study, cell_ids: Sequence[str], *, console: Console) -> None:
        self._study, self._console = study, console
        self._states = dict.fromkeys(cell_ids, "waiting")
        self._began_s: dict[str, float] = {}
        self._took_s: dict[str, float] = {}
        self._is_stopping = False
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def started(self, cell_id: str) -> None:
        """A cell's process was started."""
        self._states[cell_id] = "running"
        self._began_s[cell_id] = time.monotonic()
        self._say(f"started {cell_id}")

    def ended(self, cell_id: str, state: str) -> None:
        """A cell's process has ended; `state` as in `jobs.truth.STATES`."""
        self._states[cell_id] = state
        self._took_s[cell_id] = time.monotonic() - self._began_s[cell_id]
        count = sum(known == "done" for known in self._states.values())
        took = f"{self._took_s[cell_id]:.0f} s"
        self._say(f"{state} {cell_id} after {took} ({count} of {len(self._states)} done)")

    def stopping(self) -> None:
        """The person asked to stop."""
        if not self._is_stopping:
            self._console.print(
                "stopping: running cells write a checkpoint; Ctrl-C again kills them"
            )
        self._is_stopping = True

    def refresh(self, running: Iterable[str]) -> None:
        """Read the progress of the running cells and draw the table anew."""
        if not self._live:
            return
        progress = {
            cell_id: attempts.read_progress(self._study.run, cell_id) for cell_id in running
        }
        self._live.update(self._table(progress), refresh=True)

    def _table(self, progress: Mapping[str, Mapping[str, Any]]) -> Table:
        table = Table("cell", "state", "epoch", "step", "seq/s", "left", title=self._study.name)
        for cell_id, state in self._states.items():
            took_s = self._took_s.get(cell_id)
            left = f"took {took_s:.0f} s" if took_s is not None and state != "running" else ""
            shown = progress_cells(progress.get(cell_id, {})) or ("", "", "", left)
            name = cell_label(self._study.cells[cell_id])
            table.add_row(name, f"[{STYLE[state]}]{state}[/]", *shown)
        return table

    def _say(self, text: str) -> None:
        if not self._live:
            self._console.print(text, soft_wrap=True, highlight=False)


def progress_cells(progress: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    """Epoch, step, sequences/s and time left as text; None before the first word."""
    if not progress:
        return None
    phase = progress["phase"]
    epoch = f"{progress['epoch']}/{progress['epochs']}" + ("" if phase == "train" else f" {phase}")
    step = f"{progress['step']}/{progress['steps']}"
    return epoch, step, f"{progress['sequences_per_s']:,.0f}", duration(progress["left_s"])


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``42 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
