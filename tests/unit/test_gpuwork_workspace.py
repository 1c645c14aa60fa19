from __future__ import annotations

from pathlib import Path

import pytest

from gpuwork.workspace import Workspace


def test_without_a_site_file_the_root_is_work_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Workspace.locate() == Workspace(tmp_path / "work")
    with pytest.raises(SystemExit, match=r"error: other\.toml: .*No such file"):
        Workspace.locate(Path("other.toml"))


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", "work"),
        ("[paths]\nroot = 'data/grid'\n", "data/grid"),
        ("[paths]\nroot = '../elsewhere'\n", "../elsewhere"),
    ],
)
def test_a_relative_root_is_taken_from_the_site_file(tmp_path, monkeypatch, text, root):
    site = tmp_path / "site" / "site.toml"
    site.parent.mkdir()
    site.write_text(text)
    monkeypatch.chdir("/")
    assert Workspace.locate(site).root == (site.parent / root).resolve()


def test_an_absolute_root_is_taken_as_it_is(tmp_path):
    site = tmp_path / "site.toml"
    site.write_text("[paths]\nroot = '/scratch/grid'\n")
    assert Workspace.locate(site).root == Path("/scratch/grid")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[paths\n", "line 1"),
        ("paths = 3\n", r"\[paths\] is 3; it holds one key"),
        ("[paths]\nroot = 3\n", "'root': 3"),
        ("[paths]\nrot = 'x'\n", "'rot': 'x'"),
    ],
)
def test_a_site_file_that_cannot_be_followed_ends_with_one_line(tmp_path, text, told):
    site = tmp_path / "site.toml"
    site.write_text(text)
    with pytest.raises(SystemExit, match=rf"error: {site}: .*{told}"):
        Workspace.locate(site)


def test_every_file_has_its_place():
    workspace = Workspace(Path("/w"))
    places = {
        workspace.raw("demo"): "raw/demo",
        workspace.taxonomy("0123456789abcdef" * 4): "taxonomy/0123456789abcdef",
        workspace.corpus("demo"): "corpus/demo.h5",
        workspace.tokens("demo", "nt_v2"): "corpus/demo.nt_v2.h5",
        workspace.model("nt_v2_nano"): "models/nt_v2_nano",
        workspace.run("taxonomy"): "runs/taxonomy",
        workspace.checkpoint("taxonomy", "cell-0"): "runs/taxonomy/checkpoints/cell-0",
        workspace.results("taxonomy"): "results/taxonomy",
        workspace.result("taxonomy", "cell-0"): "results/taxonomy/cell-0.h5",
        workspace.merged("taxonomy"): "results/taxonomy.h5",
        workspace.report("taxonomy"): "reports/taxonomy",
    }
    assert {path.relative_to("/w").as_posix() for path in places} == set(places.values())
    assert all(path == Path("/w") / place for path, place in places.items())
