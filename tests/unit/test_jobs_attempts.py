import subprocess
import sys
from pathlib import Path

import pytest

from jobs import attempts
from jobs.attempts import CellBusyError

CELL = "taxonomy.nano.full"


def test_attempts_are_numbered_from_zero_and_kept(tmp_path: Path) -> None:
    assert attempts.last(tmp_path, CELL) is None
    first = attempts.start(tmp_path, CELL, job="12_0", log=tmp_path / "log.err")
    attempts.end(tmp_path, CELL, first, ended="stopped")
    second = attempts.start(tmp_path, CELL, job="12_0", log=tmp_path / "log.err")
    assert (first.number, second.number) == (0, 1)
    assert second.ended is None
    assert attempts.last(tmp_path, CELL) == second
    assert len(list((tmp_path / "attempts" / CELL).glob("*.json"))) == 2


def test_a_failure_keeps_its_words_and_the_end_of_its_traceback(tmp_path: Path) -> None:
    attempt = attempts.start(tmp_path, CELL, job="12_0", log=tmp_path / "log.err")
    with pytest.raises(ValueError, match="invalid literal") as caught:
        int("token")
    attempts.end(tmp_path, CELL, attempt, ended="failed", error=caught.value)
    found = attempts.last(tmp_path, CELL)
    assert found is not None
    assert (found.ended, found.error) == ("failed", "ValueError")
    assert found.message == "invalid literal for int() with base 10: 'token'"
    assert found.traceback is not None
    assert found.traceback.endswith(f"ValueError: {found.message}")


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    shell = (
        "import sys; from pathlib import Path; from jobs import attempts\n"
        f"with attempts.hold(Path({str(tmp_path)!r}), {CELL!r}):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", shell]
    pipe = subprocess.PIPE
    assert not attempts.is_held(tmp_path, CELL)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "in\n"
        assert attempts.is_held(tmp_path, CELL)
        with pytest.raises(CellBusyError, match=CELL), attempts.hold(tmp_path, CELL):
            pass
        other.kill()
    assert not attempts.is_held(tmp_path, CELL)
    with attempts.hold(tmp_path, CELL):
        pass


def test_progress_is_the_last_word(tmp_path: Path) -> None:
    assert attempts.read_progress(tmp_path, CELL) == {}
    for step in (1, 2):
        attempts.write_progress(tmp_path, CELL, {"phase": "train", "step": step})
    assert attempts.read_progress(tmp_path, CELL)["step"] == 2
    (tmp_path / "progress" / f"{CELL}.json").write_text("")
    assert attempts.read_progress(tmp_path, CELL) == {}
