import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gpuwork.registry import BACKBONES
from gpuwork.spec import SpecError, check_distinct
from jobs.grids import demo, taxonomy, taxonomy_paper
from jobs.site import Site
from jobs.studies import (
    StudyError,
    missing_inputs,
    open_study,
    read_cells,
    strategy_label,
    write_cells,
)
from tests.jobs_ground import write_grid, write_inputs, write_tokens

ROOT = Path(__file__).resolve().parents[2]
NANO = BACKBONES["nt_v2_nano"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(file=tmp_path / "site.toml")


def test_the_demo_has_each_adapter_with_both_heads() -> None:
    cells = check_distinct(demo.cells())
    assert [strategy_label(cell) for cell in cells] == [
        "full", "random_init", "frozen75", "head_only",
        "ia3", "lora r1", "lora r4", "lora r16",
        "ia3, frozen heads", "lora r1, frozen heads", "lora r4, frozen heads",
        "lora r16, frozen heads",
    ]  # fmt: skip


def test_the_paper_study_is_the_published_table(shared: Path) -> None:
    with (shared / "published" / "taxonomy.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["data_fraction_as_published"] == "1"]
    published = Counter(
        (
            row["backbone"],
            row["strategy"],
            int(row["lora_rank"]) if row["lora_rank"] else None,
            float(row["learning_rate"]),
        )
        for row in rows
    )
    cells = check_distinct(taxonomy_paper.cells())
    ours = Counter((c.backbone, c.strategy, c.rank, c.recipe.learning_rate) for c in cells)
    assert len(cells) == 28
    assert ours == published
    assert {c.alpha for c in cells if c.strategy == "lora"} == {32.0}
    assert {c.heads for c in cells if c.strategy in ("lora", "ia3")} == {"frozen"}


def test_the_corrected_study() -> None:
    cells = check_distinct(taxonomy.cells())
    assert len(cells) == 5 * 8 * 3
    assert {cell.heads for cell in cells} == {"trained"}
    assert {c.alpha for c in cells if c.rank is not None} == {2.0, 16.0, 64.0}
    rates = {c.strategy: c.recipe.learning_rate for c in cells if c.backbone == "nt_v2_100m"}
    assert rates["full"] == 1e-4
    assert (rates["lora"], rates["head_only"], rates["ia3"]) == (1e-3, 1e-3, 5e-3)


def test_cells_are_bound_to_the_corpus_once_it_exists(site: Site) -> None:
    unbound = open_study("demo", site=site)
    assert {cell.corpus_sha256 for cell in unbound.cells.values()} == {None}
    assert unbound.workloads == {"demo": None}
    write_inputs(site.workspace)
    bound = open_study("demo", site=site)
    assert {cell.corpus_sha256 for cell in bound.cells.values()} == {"c" * 64}
    assert not set(bound.cells) & set(unbound.cells)
    load = bound.workloads["demo"]
    assert load is not None
    assert (load.train, load.validation, load.test, load.length_bp) == (6, 2, 2, 60)


def test_expected_sizes_stand_in_for_an_absent_corpus(site: Site) -> None:
    load = open_study("taxonomy_paper", site=site).workloads["taxonomy"]
    assert load is not None
    assert (load.train, load.validation, load.test) == (4_570_418, 507_824, 103_638)


def test_a_users_own_file_is_a_study(site: Site, tmp_path: Path) -> None:
    study = open_study(str(write_grid(tmp_path, count=3)), site=site)
    assert (study.name, len(study.cells)) == ("trial", 3)
    write_cells(study)
    assert read_cells(study.run) == study.cells


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "trial.py: has no function cells()"),
        ("def cells():\n    return []\n", "cells() gave no cell"),
        ("def cells():\n    return [3]\n", "cells() gave 3"),
        ("a = 1\nb = a / 0\n", "trial.py, line 2: ZeroDivisionError"),
        ("def cells():\n    yield 1 / 0\n", "trial.py, line 2: ZeroDivisionError"),
        ("def cells(:\n", "trial.py, line 1: SyntaxError"),
        ("x = '\0'\n", "trial.py: SyntaxError: source code string cannot contain null bytes"),
        (
            "from jobs.grids.demo import _cell\ndef cells():\n    return [_cell('f', heads='')]\n",
            "trial.py, line 3: KeyError: 'f'",
        ),
    ],
)
def test_a_wrong_grid_is_one_clear_error(site: Site, tmp_path: Path, text: str, told: str) -> None:
    grid = tmp_path / "trial.py"
    grid.write_text(text)
    with pytest.raises(StudyError, match=re.escape(told)):
        open_study(str(grid), site=site)


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("taxonomi", "unknown study: 'taxonomi'; known: demo, taxonomy, taxonomy_paper"),
        ("nowhere.py", "unknown study: 'nowhere.py'"),
        ("../../etc/passwd", "unknown study"),
    ],
)
def test_an_unknown_study_lists_the_known(site: Site, grid: str, told: str) -> None:
    with pytest.raises(StudyError, match=re.escape(told)):
        open_study(grid, site=site)


def test_names_of_user_grids(site: Site, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is a shipped study; give the file another name"):
        open_study(str(write_grid(tmp_path, count=1, name="demo")), site=site)
    with pytest.raises(StudyError, match="use letters, digits"):
        open_study(str(write_grid(tmp_path, count=1, name="my study")), site=site)


def test_two_equal_cells_are_refused(site: Site, tmp_path: Path) -> None:
    grid = tmp_path / "trial.py"
    grid.write_text(
        "from jobs.grids.demo import cells as d\ndef cells():\n    return [*d(), *d()]\n"
    )
    with pytest.raises(SpecError, match="two cells mean the same"):
        open_study(str(grid), site=site)


def test_missing_inputs_name_what_to_do(site: Site) -> None:
    study = open_study("demo", site=site)
    told = "\n".join(missing_inputs(study, NANO, corpus="demo"))
    assert "demo.h5: no such corpus; make demo" in told
    assert "no config.json and model.safetensors; make models GRID=demo" in told
    write_inputs(site.workspace)
    assert missing_inputs(study, NANO, corpus="demo") == []
    write_tokens(site.workspace, corpus_sha256="d" * 64)
    assert "another version of the corpus" in missing_inputs(study, NANO, corpus="demo")[0]
    site.workspace.tokens("demo", "nt_v2").unlink()
    assert "is not tokenized" in missing_inputs(study, NANO, corpus="demo")[0]


def test_a_corpus_that_is_no_corpus(site: Site) -> None:
    path = site.workspace.corpus("demo")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not HDF5")
    with pytest.raises(StudyError, match=r"demo\.h5: cannot be read"):
        open_study("demo", site=site)


def test_an_architecture_without_a_module_is_named(site: Site) -> None:
    study = open_study("taxonomy_paper", site=site)
    corpus = site.workspace.corpus("taxonomy")
    assert missing_inputs(study, BACKBONES["dnabert2"], corpus="taxonomy") == [
        f'{corpus}: no such corpus; make corpus NAME=taxonomy SOURCE="…"',
        "dnabert2: architecture 'mosaic_bert' is not implemented",
    ]


@pytest.mark.parametrize(
    "module",
    ["submit", "status", "resubmit", "cancel", "plan", "models", "worker", "local", "slurm"],
)
def test_the_login_side_loads_no_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'peft', 'pynvml', 'safetensors'}"
    shell = f"import sys, jobs.{module}; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run(
        [sys.executable, "-c", shell], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.strip() == "[]"
