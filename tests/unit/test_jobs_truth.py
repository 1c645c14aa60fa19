from dataclasses import replace
from pathlib import Path

import pytest

from jobs import attempts, journal
from jobs.attempts import Attempt
from jobs.site import Site
from jobs.slurm import SlurmError
from jobs.studies import Study, open_study
from jobs.truth import STATES, TO_RESUBMIT, TO_SUBMIT, Evidence, decide, look
from tests.jobs_ground import FakeSlurm, write_grid, write_inputs, write_result

OPEN = Attempt(
    number=0, node="n1", job="12_0", pid=1, log="x.err", started_utc="2026-01-01T00:00:10+00:00"
)
STOPPED = replace(OPEN, ended="stopped")
FAILED = replace(OPEN, ended="failed", error="ValueError", message="bad token")
DONE = replace(OPEN, ended="done")
SENT = {"element": "12_0", "submitted_utc": "2026-01-01T00:00:00+00:00"}
RESENT = {"element": "20_0", "submitted_utc": "2026-01-02T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("evidence", "state"),
    [
        (Evidence(), "new"),
        (Evidence(result="valid", live="RUNNING", attempt=FAILED, word="TIMEOUT", **SENT), "done"),
        (Evidence(live="PENDING", attempt=FAILED, **SENT), "queued"),
        (Evidence(live="RUNNING", attempt=FAILED, word="FAILED", **SENT), "running"),
        (Evidence(live="COMPLETING", **SENT), "running"),
        (Evidence(is_held=True, attempt=OPEN), "running"),
        (Evidence(result="corrupt", live="PENDING", **SENT), "queued"),
        (Evidence(result="corrupt", attempt=DONE), "corrupt"),
        (Evidence(attempt=FAILED, word="COMPLETED", **SENT), "failed"),
        (Evidence(attempt=STOPPED, word="TIMEOUT", **SENT), "stopped"),
        (Evidence(attempt=STOPPED, word="CANCELLED", **SENT), "cancelled"),
        (Evidence(attempt=DONE), "lost"),
        (Evidence(attempt=OPEN), "lost"),
        (Evidence(attempt=OPEN, word="OUT_OF_MEMORY", **SENT), "failed"),
        (Evidence(attempt=OPEN, word="CANCELLED", **SENT), "cancelled"),
        (Evidence(word="NODE_FAIL", **SENT), "failed"),
        (Evidence(word="COMPLETED", **SENT), "lost"),
        (Evidence(word="COMPLETING", **SENT), "lost"),
        (Evidence(attempt=OPEN, word="RUNNING", **SENT), "lost"),
        (Evidence(attempt=STOPPED, word="PENDING", **SENT), "stopped"),
        (Evidence(**SENT), "lost"),
        (Evidence(attempt=FAILED, word="CANCELLED", **RESENT), "cancelled"),
        (Evidence(attempt=FAILED, **RESENT), "lost"),
        (
            Evidence(attempt=replace(FAILED, job="991", started_utc="2026-01-03"), **RESENT),
            "failed",
        ),
    ],
)
def test_the_first_that_answers_wins(evidence: Evidence, state: str) -> None:
    assert decide(evidence)[0] == state
    assert state in STATES


def test_reasons_a_person_can_use() -> None:
    assert decide(Evidence(attempt=FAILED))[1] == "ValueError: bad token"
    assert (
        decide(Evidence(word="OUT_OF_MEMORY", **SENT))[1] == "SLURM says OUT_OF_MEMORY of job 12_0"
    )
    assert decide(Evidence(**SENT))[1] == "job 12_0 is over and left no trace"


def test_what_is_live_or_done_is_never_sent() -> None:
    assert set(STATES) - set(TO_SUBMIT) - set(TO_RESUBMIT) == {"done", "running", "queued"}
    assert set(TO_SUBMIT) & set(TO_RESUBMIT) == {"stopped"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    site = Site(file=tmp_path / "site.toml")
    write_inputs(site.workspace)
    return open_study(str(write_grid(tmp_path, count=4)), site=site)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    return fake


def test_files_speak_before_slurm(study: Study, slurm: FakeSlurm) -> None:
    done, running, failed, killed = study.cells
    journal.intend(study.run, name="glm-a", cells=tuple(study.cells))
    journal.accept(study.run, name="glm-a", job_id="12")
    write_result(study.workspace.result(study.name, done), cell_id=done)
    attempts.write_progress(study.run, running, {"phase": "train", "step": 3})
    attempt = attempts.start(study.run, failed, job="12_2", log=study.run / "log.err")
    attempts.end(study.run, failed, attempt, ended="failed", error=ValueError("bad token"))
    (slurm.state / "squeue").write_text("12_1|RUNNING\n99|RUNNING\n")
    (slurm.state / "sacct").write_text(
        "12_0|TIMEOUT\n12_2|COMPLETED\n12_3|FAILED\n12_3.batch|FAILED\n12_3.0|OUT_OF_ME+\n"
    )
    standings = look(study)
    assert [standings[known].state for known in study.cells] == [
        "done", "running", "failed", "failed",
    ]  # fmt: skip
    assert standings[running].progress["step"] == 3
    assert standings[failed].log == str(study.run / "log.err")
    assert "OUT_OF_ME" in standings[killed].why
    assert len(slurm.calls("squeue")) + len(slurm.calls("sacct")) == 2


def test_without_accounting_and_without_a_trace_a_cell_is_lost(
    study: Study, slurm: FakeSlurm
) -> None:
    journal.intend(study.run, name="glm-a", cells=tuple(study.cells))
    journal.accept(study.run, name="glm-a", job_id="12")
    assert {standing.state for standing in look(study).values()} == {"lost"}
    assert len(slurm.calls("sacct")) == 1


def test_a_study_that_was_never_sent_asks_slurm_nothing(study: Study, slurm: FakeSlurm) -> None:
    assert {standing.state for standing in look(study).values()} == {"new"}
    assert slurm.calls("squeue") == []


def test_a_cell_that_ends_while_squeue_is_asked_is_done(
    study: Study, slurm: FakeSlurm, tmp_path: Path
) -> None:
    cell_id = next(iter(study.cells))
    journal.intend(study.run, name="glm-a", cells=(cell_id,))
    journal.accept(study.run, name="glm-a", job_id="12")
    attempt = attempts.start(study.run, cell_id, job="12", log=study.run / "log.err")
    attempts.end(study.run, cell_id, attempt, ended="done")
    written, result = tmp_path / "written.h5", study.workspace.result(study.name, cell_id)
    write_result(written, cell_id=cell_id)
    result.parent.mkdir(parents=True)
    (slurm.bin / "squeue").write_text(f"#!/bin/bash\ncp {written} {result}\n")
    assert look(study)[cell_id].state == "done"


def test_where_there_is_no_squeue_only_what_was_never_sent_can_be_told(
    study: Study, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slurm.bin / "squeue").unlink()
    monkeypatch.setenv("PATH", str(slurm.bin))
    cell_id = next(iter(study.cells))
    attempt = attempts.start(study.run, cell_id, job="7", log=study.run / "log.err")
    attempts.end(study.run, cell_id, attempt, ended="stopped")
    assert look(study)[cell_id].state == "stopped"
    journal.intend(study.run, name="glm-a", cells=tuple(study.cells))
    journal.accept(study.run, name="glm-a", job_id="12")
    with pytest.raises(SlurmError, match="squeue is not on the PATH"):
        look(study)


def test_a_corrupt_result_and_one_of_another_cell(study: Study) -> None:
    first, second, *_ = study.cells
    path = study.workspace.result(study.name, first)
    write_result(path, cell_id=first)
    path.write_bytes(path.read_bytes()[:-100])
    write_result(study.workspace.result(study.name, second), cell_id=first)
    standings = look(study)
    assert standings[first].state == standings[second].state == "corrupt"
    assert f"holds the cell {first}" in standings[second].why
