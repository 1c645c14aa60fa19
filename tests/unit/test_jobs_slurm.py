import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import journal, slurm
from jobs.arrays import Array
from jobs.resources import Shape
from jobs.site import ExecutionSection, Site, SlurmSection
from jobs.slurm import SlurmError
from jobs.studies import Study, open_study
from tests.jobs_ground import FakeSlurm, journal_lines, write_grid, write_inputs

SHAPE = Shape(gpus=0, cpus=2, mem_gb=1, minutes=10)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    commands = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{commands.bin}:/usr/bin:/bin")
    return commands


@pytest.fixture
def study(tmp_path: Path) -> Study:
    site = Site(file=tmp_path / "site.toml", slurm=SlurmSection(partition="p", gres=""))
    write_inputs(site.workspace)
    return open_study(str(write_grid(tmp_path, count=3)), site=site)


def test_ids_of_slurms_lists() -> None:
    assert slurm.elements("12") == ["12"]
    assert slurm.elements("12_3") == ["12_3"]
    assert slurm.elements("12_[0-2,5%4]") == ["12_0", "12_1", "12_2", "12_5"]


def test_live_jobs_by_element(fake: FakeSlurm) -> None:
    (fake.state / "squeue").write_text("12_0|RUNNING\n12_1|PENDING\n13|COMPLETING\n")
    assert slurm.live() == {"12_0": "RUNNING", "12_1": "PENDING", "13": "COMPLETING"}


def test_a_silent_controller_is_an_error_not_an_empty_queue(fake: FakeSlurm) -> None:
    (fake.state / "down").touch()
    with pytest.raises(SlurmError, match="Unable to contact"):
        slurm.live()


def test_accounting_words(fake: FakeSlurm) -> None:
    assert slurm.ended(["12"]) == {}
    (fake.state / "sacct").write_text(
        "12_0|CANCELLED by 1000\n12_[1-2%4]|CANCELLED by 0\n12_3|FAILED\n12_3.0|OUT_OF_MEMORY\n"
        "12_4|COMPLETED\n12_4.batch|COMPLETED\n"
    )
    assert slurm.ended(["12"]) == {
        "12_0": "CANCELLED",
        "12_1": "CANCELLED",
        "12_2": "CANCELLED",
        "12_3": "OUT_OF_MEMORY",
        "12_4": "COMPLETED",
    }
    assert fake.calls("sacct")[-1].endswith("--jobs=12")


def test_most_elements(fake: FakeSlurm, study: Study) -> None:
    assert slurm.most_elements(study.site) == 5
    known = replace(study.site, slurm=SlurmSection(max_array_size=21))
    assert slurm.most_elements(known) == 21
    assert len(fake.calls("scontrol")) == 1


@pytest.mark.parametrize(
    ("asked", "section", "controller", "expected"),
    [
        ("local", "[slurm]", "up", "local"),
        ("slurm", "", "down", "slurm"),
        ("auto", "[slurm]", "down", "slurm"),
        ("auto", "", "up", "slurm"),
        ("auto", "", "down", "local"),
    ],
)
def test_which_executor(
    fake: FakeSlurm, asked: str, section: str, controller: str, expected: str
) -> None:
    if controller == "down":
        (fake.state / "down").touch()
    site = Site(
        file=Path("site.toml"),
        execution=ExecutionSection(executor=asked),
        describes_slurm=bool(section),
    )
    assert slurm.executor_of(site) == expected


def test_no_sbatch_means_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.executor_of(Site(file=Path("site.toml"), describes_slurm=True)) == "local"
    with pytest.raises(SlurmError, match="squeue is not on the PATH"):
        slurm.live()


def test_an_array_and_the_merge_job_behind_it(
    fake: FakeSlurm, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SBATCH_PARTITION", "debug")
    monkeypatch.setenv("SLURM_CONF", "/etc/here/slurm.conf")
    cells = tuple(study.cells)
    two = Array(shape=SHAPE, cells=cells[:2], at_once=1)
    one = Array(shape=SHAPE, cells=cells[2:], at_once=1)
    slurm.send(study, [two, one])
    array, single, merge = (fake.script(job_id) for job_id in (100, 101, 102))
    assert "#SBATCH --array=0-1%1\n" in array
    assert "#SBATCH --requeue\n" in array
    assert "#SBATCH --signal=USR2@120\n" in array
    assert "#SBATCH --time=10\n" in array
    assert "wckey" not in array + single + merge
    assert "gres" not in array
    assert "scontrol requeue" in array
    assert "--array" not in single
    assert "#SBATCH --dependency=afterany:100:101\n" in merge
    environment = (fake.state / "100.env").read_text()
    assert "SLURM_JOB_ID=" not in environment
    assert "SBATCH_PARTITION" not in environment
    assert "SLURM_CONF=/etc/here/slurm.conf" in environment
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert [line["event"] for line in journal_lines(study.run)] == ["intent", "accepted"] * 3
    elements = {cell: element for cell, (element, _) in journal.newest_elements(study.run).items()}
    assert [elements[cell] for cell in cells] == ["100_0", "100_1", "101"]
    for folder in (study.run / "submitit", *(study.run / "submitit").iterdir()):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_refused_array_is_void_and_an_error(fake: FakeSlurm, study: Study) -> None:
    (fake.state / "refuse").touch()
    array = Array(shape=SHAPE, cells=tuple(study.cells), at_once=1)
    with pytest.raises(SlurmError, match="Batch job submission failed"):
        slurm.send(study, [array])
    assert [line["event"] for line in journal_lines(study.run)] == ["intent", "void"]
    assert list((study.run / "submitit").iterdir()) == []


def test_an_array_that_was_taken_in_silence_is_adopted(fake: FakeSlurm, study: Study) -> None:
    (fake.state / "deaf").touch()
    array = Array(shape=SHAPE, cells=tuple(study.cells), at_once=1)
    slurm.send(study, [array])
    jobs = journal.read(study.run)
    assert [job.job_id for job in jobs] == ["100", "101"]
    names = {path.name for path in (study.run / "submitit").glob("*/100_*_submitted.pkl")}
    assert names == {f"100_{index}_submitted.pkl" for index in range(3)}


def test_lone_intents_are_looked_up(fake: FakeSlurm, study: Study) -> None:
    slurm.send(study, [Array(shape=SHAPE, cells=tuple(study.cells), at_once=1)])
    lines = (study.run / "journal.jsonl").read_text().splitlines(keepends=True)
    (study.run / "journal.jsonl").write_text(lines[0])
    journal.intend(study.run, name="glm-never", cells=("x",))
    slurm.repair(study)
    known, never = journal.read(study.run)
    assert known.job_id == "100"
    assert never.is_void
    before = len(fake.calls("squeue"))
    slurm.repair(study)
    assert len(fake.calls("squeue")) == before
