import subprocess
import sys
from pathlib import Path

import pytest

from jobs import journal
from jobs.journal import LaunchBusyError, Submission


def test_an_accepted_array_and_its_elements(tmp_path: Path) -> None:
    journal.intend(tmp_path, name="glm-a", cells=("x", "y"))
    journal.accept(tmp_path, name="glm-a", job_id="12")
    journal.intend(tmp_path, name="glm-b", cells=("z",))
    journal.accept(tmp_path, name="glm-b", job_id="13")
    journal.intend(tmp_path, name="glm-m", cells=())
    journal.accept(tmp_path, name="glm-m", job_id="14")
    assert [job.job_id for job in journal.read(tmp_path)] == ["12", "13", "14"]
    elements = {cell: element for cell, (element, _) in journal.newest_elements(tmp_path).items()}
    assert elements == {"x": "12_0", "y": "12_1", "z": "13"}


def test_the_newest_job_that_carried_a_cell_counts(tmp_path: Path) -> None:
    for name, job_id in (("glm-a", "12"), ("glm-b", "20")):
        journal.intend(tmp_path, name=name, cells=("x",))
        journal.accept(tmp_path, name=name, job_id=job_id)
    assert journal.newest_elements(tmp_path)["x"][0] == "20"


def test_lone_and_void_intents_carry_nothing(tmp_path: Path) -> None:
    journal.intend(tmp_path, name="glm-a", cells=("x",))
    journal.intend(tmp_path, name="glm-b", cells=("x",))
    journal.void(tmp_path, name="glm-b", why="refused")
    lone, void = journal.read(tmp_path)
    assert (lone.job_id, lone.is_void) == (None, False)
    assert void.is_void
    assert journal.newest_elements(tmp_path) == {}


def test_a_torn_last_line_is_no_line_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    journal.intend(tmp_path, name="glm-a", cells=("x",))
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"event": "inte')
    assert [job.name for job in journal.read(tmp_path)] == ["glm-a"]
    journal.intend(tmp_path, name="glm-b", cells=("y",))
    assert [job.name for job in journal.read(tmp_path)] == ["glm-a", "glm-b"]


def test_no_journal_yet(tmp_path: Path) -> None:
    assert journal.read(tmp_path) == ()


def test_an_array_of_one_is_no_array() -> None:
    assert Submission(name="a", cells=("x",), utc="", job_id="7").element(0) == "7"
    assert Submission(name="a", cells=("x", "y"), utc="", job_id="7").element(1) == "7_1"


def test_two_launches_at_once(tmp_path: Path) -> None:
    shell = (
        "import sys; from pathlib import Path; from jobs import journal\n"
        f"with journal.launching(Path({str(tmp_path)!r})):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", shell]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with (
            pytest.raises(LaunchBusyError, match=f"process {other.pid}"),
            journal.launching(tmp_path),
        ):
            pass
        other.kill()
    with journal.launching(tmp_path):
        pass
