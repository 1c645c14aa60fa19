"""How the local pool reads the end of a cell's process; the pool itself runs in integration."""

from pathlib import Path

import pytest

from jobs import attempts
from jobs.local import how_it_ended
from jobs.site import Site
from jobs.studies import Study, open_study
from tests.jobs_ground import write_grid, write_inputs, write_result, write_site

LOG = Path("submitit.err")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    site = Site(file=write_site(tmp_path))
    write_inputs(site.workspace)
    return open_study(str(write_grid(tmp_path, count=1)), site=site)


def test_an_older_attempt_says_nothing_about_a_process_that_never_began(study: Study) -> None:
    (cell_id,) = study.cells
    assert how_it_ended(study, cell_id, number=0, log=LOG).state == "lost"
    attempt = attempts.start(study.run, cell_id, job="7", log=study.run / "own.err")
    attempts.end(study.run, cell_id, attempt, ended="stopped")
    assert how_it_ended(study, cell_id, number=0, log=LOG).state == "stopped"
    number = attempts.next_number(study.run, cell_id)
    assert number == 1
    ended = how_it_ended(study, cell_id, number=number, log=LOG)
    assert (ended.state, ended.log) == ("lost", str(LOG))
    assert ended.why == "its process ended before it began"


def test_the_attempt_that_was_begun_tells_its_end_and_its_log(study: Study) -> None:
    (cell_id,) = study.cells
    attempt = attempts.start(study.run, cell_id, job="7", log=study.run / "own.err")
    assert how_it_ended(study, cell_id, number=0, log=LOG).state == "lost"
    attempts.end(study.run, cell_id, attempt, ended="failed", error=ValueError("bad token"))
    ended = how_it_ended(study, cell_id, number=0, log=LOG)
    assert (ended.state, ended.why) == ("failed", "ValueError: bad token")
    assert ended.log == str(study.run / "own.err")


def test_a_result_that_is_there_is_done_whoever_wrote_it(study: Study) -> None:
    (cell_id,) = study.cells
    write_result(study.workspace.result(study.name, cell_id), cell_id=cell_id)
    assert how_it_ended(study, cell_id, number=0, log=LOG).state == "done"
