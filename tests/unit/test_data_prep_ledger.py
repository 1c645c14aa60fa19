from __future__ import annotations

import io

from rich.console import Console

from data_prep.ledger import Row, table, write

ROWS = [
    Row("kept", "fragments", 12_345),
    Row("dropped taxid", "77", 2, "no genus in its lineage"),
    Row("class", "genus: Homo", 9, "train 7, validation 1, test 1"),
]


def test_the_file_has_every_row(tmp_path):
    path = tmp_path / "new" / "a.report.tsv"
    write(path, ROWS)
    assert path.read_text().splitlines() == [
        "section\titem\tnumber\tnote",
        "kept\tfragments\t12345\t",
        "dropped taxid\t77\t2\tno genus in its lineage",
        "class\tgenus: Homo\t9\ttrain 7, validation 1, test 1",
    ]
    assert [p.name for p in path.parent.iterdir()] == ["a.report.tsv"]


def test_the_terminal_has_no_long_lists():
    console = Console(width=100, file=io.StringIO())
    console.print(table(ROWS, title="corpus a"))
    shown = console.file.getvalue()
    assert "12,345" in shown
    assert "Homo" not in shown
    assert "77" not in shown
