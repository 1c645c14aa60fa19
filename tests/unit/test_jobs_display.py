import io
from pathlib import Path

import pytest
from rich.console import Console

from jobs import attempts
from jobs.display import STYLE, Display, duration, progress_cells
from jobs.site import Site
from jobs.studies import Study, open_study
from jobs.truth import STATES

PROGRESS = {"phase": "train", "epoch": 2, "epochs": 4, "step": 30, "steps": 120}
SPEED = {"sequences_per_s": 1234.5, "left_s": 200.0}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study("demo", site=Site(file=tmp_path / "site.toml"))


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (89, "89 s"), (200, "3 min"), (5300, "88 min"), (11_100, "3 h 05 min")],
)
def test_duration(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_progress_in_words() -> None:
    assert progress_cells({}) is None
    assert progress_cells({**PROGRESS, **SPEED}) == ("2/4", "30/120", "1,234", "3 min")
    test = progress_cells({**PROGRESS, **SPEED, "phase": "test"})
    assert test is not None
    assert test[0] == "2/4 test"


def test_every_state_has_a_color() -> None:
    assert set(STATES) <= set(STYLE)


def test_in_a_file_there_is_one_line_per_event(study: Study) -> None:
    first, second, *_ = study.cells
    told = io.StringIO()
    with Display(study, (first, second), console=Console(file=told)) as display:
        display.started(first)
        display.refresh([first])
        display.ended(first, "done")
        display.started(second)
        display.stopping()
        display.stopping()
        display.ended(second, "stopped")
    lines = told.getvalue().splitlines()
    assert lines[0] == f"started {first}"
    assert lines[1] == f"done {first} after 0 s (1 of 2 done)"
    assert lines[3:] == [
        "stopping: running cells write a checkpoint; Ctrl-C again kills them",
        f"stopped {second} after 0 s (1 of 2 done)",
    ]


def test_on_a_terminal_the_table_shows_running_cells(study: Study) -> None:
    first, second, *_ = study.cells
    attempts.write_progress(study.run, first, {**PROGRESS, **SPEED})
    told = io.StringIO()
    console = Console(file=told, force_terminal=True, width=120)
    with Display(study, (first, second), console=console) as display:
        display.started(first)
        display.refresh([first])
    shown = told.getvalue()
    assert "nt_v2_nano full s0" in shown
    assert "30/120" in shown
    assert "waiting" in shown
