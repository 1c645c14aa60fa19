"""plan, submit, status, resubmit, cancel and models through their real main, SLURM faked."""

import json
from pathlib import Path

import pytest

from gpuwork.workspace import Workspace
from jobs import attempts, cancel, journal, models, plan, resubmit, status, submit
from jobs.site import read_site
from jobs.studies import Study, open_study
from tests.jobs_ground import FakeSlurm, write_grid, write_inputs, write_result, write_site


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.bin}:/usr/bin:/bin")
    monkeypatch.setenv("COLUMNS", "200")
    return fake


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """GRID of six cells and a site.toml with SLURM; MaxArraySize is 5."""
    site = write_site(tmp_path, '[slurm]\npartition = "p"\ngres = ""\ncpus_per_task = 1\n')
    write_inputs(Workspace.locate(site))
    return [str(write_grid(tmp_path, count=6)), "--site", str(site)]


@pytest.fixture
def study(arguments: list[str]) -> Study:
    return open_study(arguments[0], site=read_site(Path(arguments[2])))


def finish(study: Study, *cell_ids: str) -> None:
    for cell_id in cell_ids:
        write_result(study.workspace.result(study.name, cell_id), cell_id=cell_id)


def states(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> list[str]:
    capsys.readouterr()
    assert status.main([*arguments, "--json"]) == 0
    return [entry["state"] for entry in json.loads(capsys.readouterr().out)]


def test_submit_sends_chunks_and_a_merge_job(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main(arguments) == 0
    assert "6 cells: 6 new\n6 to send" in capsys.readouterr().out
    carried = {cell: element for cell, (element, _) in journal.newest_elements(study.run).items()}
    assert list(carried.values()) == ["100_0", "100_1", "100_2", "100_3", "100_4", "101"]
    assert "--dependency=afterany:100:101" in slurm.script(102)
    assert json.loads((study.run / "cells.json").read_text())


def test_a_second_submit_while_all_is_queued_has_nothing_to_do(
    slurm: FakeSlurm, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    submit.main(arguments)
    queued = "\n".join([*(f"100_{index}|PENDING" for index in range(5)), "101|RUNNING"])
    (slurm.state / "squeue").write_text(queued)
    assert states(capsys, arguments) == ["queued"] * 5 + ["running"]
    assert submit.main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert len(slurm.calls("sbatch")) == 3


@pytest.mark.usefixtures("slurm")
def test_a_submit_of_what_is_done_says_where_the_report_is(
    arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(study, *study.cells)
    assert submit.main(arguments) == 0
    assert capsys.readouterr().out == "6 cells: 6 done\nnothing to do\n"
    report = study.workspace.report(study.name) / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    assert submit.main(arguments) == 0
    assert capsys.readouterr().out == f"6 cells: 6 done\nnothing to do\nreport: {report}\n"


@pytest.mark.usefixtures("slurm")
def test_submit_leaves_what_is_done_and_what_failed(
    arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    done, failed, *_ = study.cells
    finish(study, done)
    attempt = attempts.start(study.run, failed, job="9", log=study.run / "x.err")
    attempts.end(study.run, failed, attempt, ended="failed", error=ValueError("bad token"))
    assert submit.main(arguments) == 0
    told = capsys.readouterr().out
    assert "6 cells: 1 done, 4 new, 1 failed\n4 to send\n1 ended without a result: make" in told
    assert set(journal.newest_elements(study.run)) == set(study.cells) - {done, failed}


def test_resubmit_sends_only_what_ended_without_a_result(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    submit.main(arguments)
    done, broken, failed, waiting, *rest = study.cells
    finish(study, done, broken, *rest)
    path = study.workspace.result(study.name, broken)
    path.write_bytes(path.read_bytes()[:-10])
    attempt = attempts.start(study.run, failed, job="100_2", log=study.run / "x.err")
    attempts.end(study.run, failed, attempt, ended="failed", error=ValueError("bad token"))
    (slurm.state / "squeue").write_text("100_3|PENDING\n")
    assert states(capsys, arguments) == ["done", "corrupt", "failed", "queued", "done", "done"]
    assert submit.main(arguments) == 0
    assert f"2 ended without a result: make resubmit GRID={arguments[0]}" in capsys.readouterr().out
    assert resubmit.main([*arguments, "--dry-run"]) == 0
    assert path.exists()
    assert len(slurm.calls("sbatch")) == 3
    capsys.readouterr()
    assert resubmit.main(arguments) == 0
    told = capsys.readouterr().out
    assert f"again: {failed} (failed: ValueError: bad token)" in told
    assert "ended without a result" not in told
    assert journal.read(study.run)[-2].cells == (broken, failed)
    assert not path.exists()
    assert [moved.name.startswith(broken) for moved in (study.run / "quarantine").iterdir()] == [
        True
    ]
    assert waiting not in journal.read(study.run)[-2].cells


def test_nothing_is_sent_when_an_input_is_missing(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    (study.workspace.model("nt_v2_nano") / "model.safetensors").unlink()
    study.workspace.tokens("demo", "nt_v2").unlink()
    assert submit.main(arguments) == 2
    assert submit.main([*arguments, "--dry-run"]) == 2
    out, told = capsys.readouterr()
    assert "to send" not in out
    assert told.count("trial is not ready") == 2
    assert "is not tokenized; make demo" in told
    assert f"no config.json and model.safetensors; make models GRID={arguments[0]}" in told
    assert slurm.calls("sbatch") == []
    assert not (study.run / "cells.json").exists()


@pytest.mark.usefixtures("slurm")
def test_an_unimplemented_backbone_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main(["taxonomy_paper", *arguments[1:]]) == 2
    assert "architecture 'mosaic_bert' is not implemented" in capsys.readouterr().err


def test_dry_run_prints_the_arrays_and_writes_nothing(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit.main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "array of 5, 5 at once: 0 GPU, 1 CPUs, 32 GB, 10 min each" in told
    assert all(cell_id in told for cell_id in study.cells)
    assert not study.run.exists()
    assert slurm.calls("sbatch") == []


def test_a_silent_controller_stops_submit(
    slurm: FakeSlurm, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    submit.main(arguments)
    (slurm.state / "down").touch()
    assert submit.main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: squeue")
    assert len(slurm.calls("sbatch")) == 3


def test_a_second_submit_at_the_same_time_is_refused(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    with journal.launching(study.run):
        assert submit.main(arguments) == 2
    assert "another submit of this study is at work" in capsys.readouterr().err
    assert slurm.calls("sbatch") == []


def test_cancel_takes_the_studys_jobs_and_no_others(
    slurm: FakeSlurm, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cancel.main(arguments) == 0
    assert "nothing to cancel" in capsys.readouterr().out
    submit.main(arguments)
    (slurm.state / "squeue").write_text("100_0|RUNNING\n100_1|PENDING\n102|PENDING\n77|RUNNING\n")
    assert cancel.main(arguments) == 0
    assert slurm.calls("scancel") == ["100 102"]
    assert "cancelled 3 queued or running jobs of trial" in capsys.readouterr().out


def test_status_shows_the_table_progress_and_one_log_per_failure(
    slurm: FakeSlurm, arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    submit.main(arguments)
    done, running, failed, *_ = study.cells
    finish(study, done)
    progress = {"phase": "train", "epoch": 2, "epochs": 4, "step": 30, "steps": 120}
    attempts.write_progress(
        study.run, running, {**progress, "sequences_per_s": 512.4, "left_s": 200.0}
    )
    attempt = attempts.start(study.run, failed, job="100_2", log=study.run / "x.err")
    attempts.end(study.run, failed, attempt, ended="failed", error=ValueError("bad [token]"))
    (slurm.state / "squeue").write_text(
        "100_1|RUNNING\n100_3|PENDING\n100_4|PENDING\n101|PENDING\n"
    )
    capsys.readouterr()
    assert status.main(arguments) == 0
    told = capsys.readouterr().out
    assert "frozen75" in told
    assert "2/4" in told
    assert "30/120" in told
    assert "512" in told
    assert "3 min" in told
    assert f"failed: {failed}: ValueError: bad [token]\n  log: {study.run / 'x.err'}" in told
    assert "6 cells: 1 done, 1 running, 3 queued, 1 failed" in told


def test_the_strategies_stay_whole_in_a_narrow_terminal(
    slurm: FakeSlurm,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    assert status.main(arguments) == 0
    assert "random_init" in capsys.readouterr().out
    assert slurm.calls("squeue") == []


def test_plan_of_the_paper_without_any_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    site = write_site(tmp_path, '[execution]\nexecutor = "local"\ndevice = "cuda"\n')
    assert plan.main(["taxonomy_paper", "--site", str(site)]) == 0
    told = capsys.readouterr().out
    rows = [line for line in told.splitlines() if " x " in line]
    assert len(rows) == 28
    hours = [float(line.split()[-1]) for line in rows]
    assert f"predicted in total: {sum(hours):.1f} GPU-hours" in told
    assert "28 cells, 0 done; executor local, device cuda" in told
    assert 'taxonomy.h5: no such corpus; make corpus NAME=taxonomy SOURCE="…" (28 cells)' in told
    assert "dnabert2: architecture 'mosaic_bert' is not implemented (5 cells)" in told
    assert not (tmp_path / "work").exists()
    site.write_text('[execution]\nexecutor = "local"\ndevice = "cpu"\n')
    assert plan.main(["taxonomy_paper", "--site", str(site)]) == 0
    on_cpu = capsys.readouterr().out
    assert [line.split()[-1] for line in on_cpu.splitlines() if " x " in line] == [
        f"{expected:.2f}" for expected in hours
    ]
    assert f"predicted in total: {sum(hours):.1f} GPU-hours" in on_cpu
    assert "of a CPU core" not in on_cpu


@pytest.mark.parametrize(
    ("hours", "told"),
    [(0.5, "30.0 minutes"), (2, "2.0 hours"), (999, "999.0 hours"), (24_000, "1,000 days")],
)
def test_time_of_a_core_in_the_unit_a_person_takes(hours: float, told: str) -> None:
    assert plan.core_time(hours) == told


@pytest.mark.usefixtures("slurm")
def test_plan_counts_what_is_done_and_shows_limits_under_slurm(
    arguments: list[str], study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(study, *list(study.cells)[:2])
    assert plan.main(arguments) == 0
    told = capsys.readouterr().out
    assert "6 cells, 2 done; executor slurm, device cpu" in told
    assert "10 min" in told
    assert "core minutes" in told
    assert "predicted in total: 0.0 minutes of a CPU core" in told
    assert "GPU-hours" not in told
    assert "inputs: all there" in told


def test_plan_of_a_corpus_of_unknown_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path, '[execution]\nexecutor = "local"\n')
    assert plan.main([str(write_grid(tmp_path, count=2)), "--site", str(site)]) == 0
    told = capsys.readouterr().out
    assert "predicted in total: unknown; 2 cells are of unknown size" in told
    assert "hours" not in told


def test_models_that_are_there_and_models_to_fetch(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert models.main(arguments) == 0
    assert "nt_v2_nano: there" in capsys.readouterr().out
    assert models.main(["taxonomy_paper", *arguments[1:]]) == 2
    told = capsys.readouterr().err
    assert (
        "nt_v2_50m: put config.json and model.safetensors of https://huggingface.co/InstaDeepAI/"
        "nucleotide-transformer-v2-50m-multi-species at revision 81b29e57" in told
    )


@pytest.mark.parametrize("command", [plan, submit, status, resubmit, cancel, models])
def test_bad_input_is_one_line_and_code_2(
    command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = write_site(tmp_path, "[slurm]\npartitoin = 'gpu'\n")
    assert command.main(["demo", "--site", str(site)]) == 2
    assert command.main(["demoo"]) == 2
    assert command.main(["demo", "--site", str(tmp_path / "none.toml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)


def test_trouble_with_files_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main(["demo", "--site", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: Is a directory\n"
    (tmp_path / "taken").touch()
    local = '[execution]\nexecutor = "local"\n'
    site = write_site(tmp_path, f'[paths]\nroot = "taken/work"\n{local}')
    assert submit.main(["demo", "--site", str(site)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {tmp_path / 'taken' / 'work'}")
    assert told.endswith(": Not a directory\n")


@pytest.mark.parametrize("command", [plan, submit, status, resubmit, cancel, models])
def test_help_names_the_command_as_it_is_called(
    command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m {command.__name__} ")
