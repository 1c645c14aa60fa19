import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from analysis import figures, merge, report
from analysis.load import load
from analysis.place import place
from tests.unit.analysis_cases import CLASSES, Outcome, make_cell, write_cells, write_result


@pytest.fixture
def study(site, workspace):
    """Two levels of strategies: without and with a rank, heads trained and frozen."""
    cells = [
        make_cell("full"),
        *(make_cell("lora", rank=r, heads=h) for r in (1, 4) for h in ("trained", "frozen")),
    ]
    for index, cell in enumerate(cells):
        write_result(workspace, cell, Outcome(epoch_s=10 + index))
    write_cells(workspace, cells)
    assert merge.main(["demo", "--site", str(site)]) == 0
    return load(workspace.merged("demo"))


def build(site, *flags):
    assert report.main(["demo", "--site", str(site), *flags]) == 0


def test_report_points_nowhere_and_runs_nothing(site, workspace, study):
    build(site)
    directory = workspace.report("demo")
    page = (directory / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert not re.search(r"url\((?!#)|@import", page)
    assert sorted(path.name for path in (directory / "figures").iterdir()) == [
        "balanced_accuracy.svg",
        "cost.svg",
        "learning_curves.nt_v2_nano.svg",
    ]
    assert (directory / "tables" / "results.csv").exists()
    assert len(study.cells) == 5


class Ids(HTMLParser):
    """Ids of a page, what refers to them, and tags that are left open."""

    def __init__(self):
        super().__init__()
        self.ids, self.references, self.open = [], set(), []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        for value in filter(None, values.values()):
            self.references |= set(re.findall(r"^#([\w.-]+)$|url\(#([\w.-]+)\)", value))
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_ids_are_unique_and_every_reference_has_its_target(site, workspace, study):
    build(site)
    ids = Ids()
    ids.feed((workspace.report("demo") / "report.html").read_text())
    assert ids.open == []
    assert len(ids.ids) == len(set(ids.ids))
    assert len(ids.ids) > 50
    assert {a or b for a, b in ids.references} <= set(ids.ids)
    assert len(study.cells) == 5


def test_the_same_merged_file_gives_the_same_bytes(site, workspace, study, tmp_path):
    build(site)
    build(site, "--out", str(tmp_path / "again"))
    first = workspace.report("demo")
    files = [path.relative_to(first) for path in first.rglob("*") if path.is_file()]
    assert len(files) == 5
    for name in files:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert len(study.cells) == 5


def test_what_the_page_says_in_numbers(site, workspace, study):
    build(site)
    page = (workspace.report("demo") / "report.html").read_text()
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "5 of 5 cells of the grid are done; nothing is missing, nothing was rejected" in text
    assert "chance is 4.2 %" in text
    assert "1,000 bootstrap resamples" in text
    assert f"code_sha256 {'c0de' * 16} × 5" in text  # noqa: RUF001 - a multiplication sign is meant
    assert "Not in this report" not in text
    assert len(study.cells) == 5


def test_markup_in_the_data_stays_text(site, workspace):
    hostile = "<script>alert(1)</script>&"
    classes = {**CLASSES, "genus": [f"{hostile} {index}" for index in range(24)]}
    cell = make_cell("full")
    write_result(workspace, cell, Outcome(classes=classes, facts={"device": hostile}))
    (workspace.results("demo") / f"{'<b>'}.h5").write_text("")
    assert merge.main(["demo", "--site", str(site)]) == merge.INCOMPLETE
    build(site)
    page = (workspace.report("demo") / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page
    assert "<b>.h5" not in page
    assert "&lt;b&gt;.h5" in page


def test_a_report_without_results_lists_what_is_missing(site, workspace):
    write_cells(workspace, [make_cell("full"), make_cell("ia3")])
    assert merge.main(["demo", "--site", str(site)]) == merge.INCOMPLETE
    build(site)
    page = (workspace.report("demo") / "report.html").read_text()
    assert "0 of 2 cells" in page
    assert "no usable results yet" in page
    assert "taxonomy.nt_v2_nano.ia3.trained.s0-" in page
    assert "make resubmit GRID=demo" in page


def test_a_merged_file_is_enough(study, tmp_path):
    moved = study.path.rename(tmp_path / "mine.h5")
    assert report.main([str(moved)]) == 0
    assert (tmp_path / "mine.report" / "report.html").exists()


def test_a_study_that_was_not_merged_is_refused(site, capsys):
    assert report.main(["demo", "--site", str(site)]) == 2
    assert "make it with `make merge GRID=demo`" in capsys.readouterr().err


def test_a_grid_file_stands_for_its_study(site, study):
    assert place("grids/demo.py", site=site, out=None).merged == study.path


def test_provenance_counts_distinct_values(site, workspace):
    for seed in range(6):
        facts = {"hostname": f"node{seed}", "slurm_job_id": "", "device": "cpu"}
        write_result(workspace, make_cell(seed=seed), Outcome(facts=facts))
    assert merge.main(["demo", "--site", str(site)]) == 0
    facts = {fact.name: fact for fact in report.provenance(load(workspace.merged("demo")))}
    assert facts["device"].values == (("cpu", 6),)
    assert facts["hostname"].more == 2
    assert "slurm_job_id" not in facts


def test_inline_svg_takes_the_colors_of_the_page(study):
    svg = figures.draw(study, report.scores(study))["cost"]
    inlined = figures.inline(svg, name="f1")
    assert figures.HEADS["trained"] in svg
    assert not any(color in inlined for color in figures.VARIABLES)
    assert "var(--trained)" in inlined


def test_analysis_needs_no_torch():
    code = (
        "import sys; import analysis.merge, analysis.tables, analysis.report; "
        "heavy = {'torch', 'transformers', 'peft', 'pandas', 'pynvml'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
