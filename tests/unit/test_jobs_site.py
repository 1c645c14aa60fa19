import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from jobs.site import SECTIONS, Site, SiteError, read_site

EXAMPLE = Path(__file__).resolve().parents[2] / "site.example.toml"


def read(folder: Path, text: str) -> Site:
    file = folder / "site.toml"
    file.write_text(text)
    return read_site(file)


def test_no_file_means_a_laptop(tmp_path: Path) -> None:
    site = read_site(tmp_path / "site.toml")
    assert site.workspace.root == tmp_path / "work"
    assert (site.execution.executor, site.execution.device) == ("auto", "auto")
    assert not site.describes_slurm


def test_every_section_is_read(tmp_path: Path) -> None:
    site = read(
        tmp_path,
        '[paths]\nroot = "/scratch/me"\n[execution]\nexecutor = "slurm"\ndevice = "cpu"\n'
        '[local]\nthreads = 2\n[slurm]\npartition = "gpu"\nsetup = ["module load cuda"]\n',
    )
    assert site.workspace.root == Path("/scratch/me")
    assert (site.execution.executor, site.execution.device) == ("slurm", "cpu")
    assert site.local.threads == 2
    assert site.slurm.partition == "gpu"
    assert site.slurm.setup == ("module load cuda",)
    assert site.describes_slurm


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[slurm]\npartitoin = 'gpu'\n",
            "[slurm]: unknown key 'partitoin'; did you mean 'partition'",
        ),
        ("[slrum]\n", "unknown section 'slrum'; did you mean 'slurm'?"),
        ("threads = 2\n", "unknown section 'threads'"),
        ("paths = 'work'\n", "paths is 'work'; it must be a section: [paths]"),
        ("[slurm]\nmem_gb = '32'\n", "[slurm] mem_gb is '32'; it must be a whole number above 0"),
        ("[slurm]\nmem_gb = 0\n", "[slurm] mem_gb is 0; it must be a whole number above 0"),
        ("[local]\nthreads = true\n", "[local] threads is True; it must be a whole number"),
        ("[slurm]\nqos = 3\n", "[slurm] qos is 3; it must be text in quotes"),
        ("[slurm]\nsetup = 'x'\n", "[slurm] setup is 'x'; it must be a list of texts"),
        ("[execution]\ndevice = 'gpu'\n", "device is 'gpu'; known: auto, cpu, cuda"),
        ("[slurm\n", "not TOML"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SiteError) as caught:
        read(tmp_path, text)
    assert told in str(caught.value)
    assert str(tmp_path / "site.toml") in str(caught.value)


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no such file"):
        read_site(tmp_path / "mine.toml", must_exist=True)


def test_the_example_names_every_key_with_a_good_value(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    read(tmp_path, text)
    named = {section: set(keys) for section, keys in tomllib.loads(text).items()}
    known = {section: {key.name for key in fields(kind)} for section, kind in SECTIONS.items()}
    assert named == known


def test_the_example_as_it_stands_holds_the_defaults(tmp_path: Path) -> None:
    site = read(tmp_path, EXAMPLE.read_text())
    bare = Site(file=tmp_path / "site.toml")
    assert (site.paths, site.execution, site.local) == (bare.paths, bare.execution, bare.local)
    differing = {
        key.name
        for key in fields(site.slurm)
        if getattr(site.slurm, key.name) != getattr(bare.slurm, key.name)
    }
    assert differing == {"partition"}
