import csv

import pytest

from analysis import merge, tables
from analysis.load import load
from analysis.stats import scores
from tests.unit.analysis_cases import Outcome, make_cell, write_cells, write_result

LEVELS = ("superkingdom", "phylum", "genus")


@pytest.fixture
def cells(site, workspace):
    """A perfect cell, a hopeless one, and one that never ran."""
    made = [make_cell("full"), make_cell("lora", rank=4, heads="frozen"), make_cell("ia3")]
    perfect = Outcome(accuracy=dict.fromkeys(LEVELS, 1.0), trainable=445_896)
    hopeless = Outcome(accuracy=dict.fromkeys(LEVELS, 0.0), trainable=4_096, peak_bytes=3 << 30)
    write_result(workspace, made[0], perfect)
    write_result(workspace, made[1], hopeless)
    write_cells(workspace, made)
    assert merge.main(["demo", "--site", str(site)]) == merge.INCOMPLETE
    return made


def test_table_shows_what_differs_and_tells_what_does_not(workspace, cells):
    study = load(workspace.merged("demo"))
    table = tables.texts(study, scores(study))
    assert table.shared == {"backbone": "nt_v2_nano", "lr": "0.001", "seed": "0"}
    assert table.header[:6] == ("strategy", "rank", "heads", *(f"{level} %" for level in LEVELS))
    assert table.rows[0][:4] == ("full", "", "trained", "100.0 (100.0–100.0)")  # noqa: RUF001
    assert table.rows[1][:4] == ("lora", "4", "frozen", "0.0 (0.0–0.0)")  # noqa: RUF001
    assert table.rows[1][6:8] == ("4.1 k", "0.92 %")
    assert table.rows[1][-1] == "3.00 GiB"
    assert table.best == {(0, 3), (0, 4), (0, 5)}
    assert len(cells) == 3


def test_command_prints_the_table_and_what_is_missing(site, workspace, cells, capsys):
    assert tables.main(["demo", "--site", str(site)]) == 0
    out = capsys.readouterr().out
    assert "demo: 2 of 3 cells" in out
    assert "every cell: backbone nt_v2_nano, lr 0.001, seed 0" in out
    assert "1 missing: run them with `make resubmit GRID=demo`" in out
    assert len(cells) == 3
    path = workspace.report("demo") / "tables" / "results.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["strategy"] for row in rows] == ["full", "lora"]
    assert [float(row["balanced_accuracy_genus"]) for row in rows] == [1.0, 0.0]
    assert rows[0]["rank"] == ""
    assert rows[1]["best_epoch"] == rows[1]["epochs"] == "4"


def test_one_cell_keeps_all_its_columns(site, workspace):
    write_result(workspace, make_cell("full"))
    assert merge.main(["demo", "--site", str(site)]) == 0
    study = load(workspace.merged("demo"))
    assert tables.texts(study, scores(study)).header[0] == "backbone"


@pytest.mark.parametrize(
    ("number", "text"), [(860, "860"), (2_340, "2.34 k"), (55_904_972, "55.9 M"), (3e9, "3 G")]
)
def test_large_counts_have_three_digits(number, text):
    assert tables.count(number) == text
