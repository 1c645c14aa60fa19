import csv
import io

import pytest
from rich.console import Console

from analysis import merge, report, tables
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


@pytest.fixture
def wide(site, workspace):
    """A study whose table has every column, with intervals of all lengths."""
    for seed, learning_rate in enumerate((1e-3, 3e-4)):
        for rank in (4, 16):
            cell = make_cell("lora", rank=rank, seed=seed, learning_rate=learning_rate)
            write_result(workspace, cell, Outcome(accuracy=dict.fromkeys(LEVELS, 1 - seed)))
    assert merge.main(["demo", "--site", str(site)]) == 0
    return load(workspace.merged("demo"))


def on_a_terminal(study, *, width):
    """The lines that a terminal of this width gets, without color and blanks around them."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    tables.show(console, study, scores(study))
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_80_columns_show_whole_accuracies_without_intervals(workspace, cells):
    lines = on_a_terminal(load(workspace.merged("demo")), width=80)
    words = [line.split() for line in lines]
    accuracies = ["superkingdom", "%", "phylum", "%", "genus", "%"]
    assert ["strategy", "rank", "heads", *accuracies, "trainable", "share"] in words
    assert ["full", "trained", "100.0", "100.0", "100.0", "446", "k", "100.0", "%"] in words
    assert ["lora", "4", "frozen", "0.0", "0.0", "0.0", "4.1", "k", "0.92", "%"] in words
    assert "left out to fit, see results.csv: intervals, peak, s/epoch, best epoch" in lines
    assert not any("bootstrap" in line for line in lines)
    assert len(cells) == 3


def test_120_columns_show_whole_accuracies_with_intervals(workspace, cells):
    lines = on_a_terminal(load(workspace.merged("demo")), width=120)
    whole = "100.0 (100.0–100.0)"  # noqa: RUF001
    assert [line.count(whole) for line in lines if line.startswith("full")] == [3]
    assert "left out to fit, see results.csv: peak, s/epoch" in lines
    assert any("(95 % bootstrap interval)" in line for line in lines)
    assert len(cells) == 3


@pytest.mark.parametrize("width", [40, 60, 80, 99, 100, 120, 160, 200])
def test_no_terminal_cuts_a_value(wide, width):
    lines = on_a_terminal(wide, width=width)
    rows = [line.split() for line in lines if line.startswith("lora")]
    assert [row.count("100.0") for row in rows] == [0, 3, 0, 3]
    assert not any("…" in line for line in lines)
    if width >= 80:
        assert max(map(len, lines)) <= width


def test_a_terminal_with_room_for_all_leaves_nothing_out(wide):
    lines = on_a_terminal(wide, width=200)
    assert not any("left out" in line for line in lines)
    assert any(line.endswith("peak") for line in lines)


@pytest.mark.parametrize(
    ("command", "name"), [(tables, "tables"), (report, "report"), (merge, "merge")]
)
def test_help_names_the_command_as_it_is_called(command, name, capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert f"python -m analysis.{name} " in capsys.readouterr().out


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
