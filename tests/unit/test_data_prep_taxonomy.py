from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data_prep import taxonomy
from data_prep.errors import InputError
from gpuwork.workspace import Workspace

SINCE_2025 = (
    (1, 1, "no rank", "root"),
    (131567, 1, "cellular root", "cellular organisms"),
    (2, 131567, "domain", "Bacteria"),
    (10239, 1, "acellular root", "Viruses"),
    (1224, 2, "phylum", "Pseudomonadota"),
    (561, 1224, "genus", "Escherichia"),
    (562, 561, "species", "Escherichia coli"),
    (77, 1224, "species", "without genus"),
    (2731618, 10239, "phylum", "Uroviricota"),
    (186765, 2731618, "genus", "Lambdavirus"),
    (10710, 186765, "species", "lambda"),
)
BEFORE_2025 = tuple(
    (taxid, parent, {"domain": "superkingdom", "acellular root": "superkingdom"}.get(rank, rank), n)
    for taxid, parent, rank, n in SINCE_2025
)


def line(*fields) -> str:
    return "\t|\t".join(map(str, fields)) + "\t|\n"


def taxdump(directory: Path, nodes=SINCE_2025, *, deleted=(99,)) -> Path:
    directory.mkdir()
    rest = ("", 0, 0, 11, 0, 0, 0, 0, 0, "")
    tables = {
        "nodes.dmp": [line(taxid, parent, rank, *rest) for taxid, parent, rank, _ in nodes],
        "names.dmp": [line(taxid, name, "", "scientific name") for taxid, _, _, name in nodes],
        "merged.dmp": [line(83333, 562), line(83334, 5)],
        "delnodes.dmp": [line(taxid) for taxid in deleted],
    }
    for name, lines in tables.items():
        (directory / name).write_text("".join(lines))
    return directory


def look_up(dump: Path, workspace: Workspace, *taxids: int):
    database = taxonomy.database(dump, sha256=taxonomy.digest(dump), workspace=workspace)
    return taxonomy.lineages(taxids, database=database, taxdump=dump)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("work"))


@pytest.mark.parametrize("nodes", [SINCE_2025, BEFORE_2025], ids=["since 2025", "before"])
def test_both_rank_vocabularies_give_the_same_levels(tmp_path, workspace, nodes):
    found = look_up(taxdump(tmp_path / "dump", nodes), workspace, 562, 10710)
    assert found[562].taxa == {
        "superkingdom": (2, "Bacteria"),
        "phylum": (1224, "Pseudomonadota"),
        "genus": (561, "Escherichia"),
    }
    assert [name for _, name in found[10710].taxa.values()] == [
        "Viruses",
        "Uroviricota",
        "Lambdavirus",
    ]


def test_merged_deleted_and_unknown_taxids_are_told_apart(tmp_path, workspace):
    found = look_up(taxdump(tmp_path / "dump"), workspace, 562, 83333, 83334, 99, 98, 77)
    assert {taxid: lineage.current for taxid, lineage in found.items()} == {
        562: 562,
        83333: 562,
        83334: None,
        99: None,
        98: None,
        77: 77,
    }
    assert found[83333].taxa == found[562].taxa

    def refusals(superkingdom: str) -> dict[int, str | None]:
        return {
            t: taxonomy.refusal(lineage, superkingdom=superkingdom) for t, lineage in found.items()
        }

    assert refusals("Bacteria") == {
        562: None,
        83333: None,
        83334: "unknown to the taxdump",
        99: "deleted by NCBI",
        98: "unknown to the taxdump",
        77: "no genus in its lineage",
    }
    assert refusals("Archaea")[562] == "listed under Archaea, belongs to Bacteria"


def test_more_taxids_than_one_query_takes(tmp_path):
    many = tuple((taxid, 561, "species", f"s{taxid}") for taxid in range(10_000, 12_500))
    dump = taxdump(tmp_path / "dump", (*SINCE_2025, *many))
    found = look_up(dump, Workspace(tmp_path / "work"), *range(10_000, 12_501))
    assert sum(lineage.current is not None for lineage in found.values()) == 2500
    assert {lineage.taxa["genus"] for lineage in found.values() if lineage.current} == {
        (561, "Escherichia")
    }


def test_archive_and_directory_have_one_digest_and_one_content(tmp_path, workspace):
    dump = taxdump(tmp_path / "dump")
    archive = tmp_path / "taxdump.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(dump, arcname=".")
    assert taxonomy.digest(archive) == taxonomy.digest(dump)
    built_from_archive = look_up(archive, Workspace(tmp_path / "work"), 562, 99)
    assert built_from_archive == look_up(dump, workspace, 562, 99)


def test_the_digest_follows_the_content(tmp_path):
    digests = {
        taxonomy.digest(taxdump(tmp_path / "a")),
        taxonomy.digest(taxdump(tmp_path / "b", BEFORE_2025)),
        taxonomy.digest(taxdump(tmp_path / "c", deleted=())),
    }
    assert len(digests) == 3


def test_two_processes_build_at_once_and_leave_only_the_database(tmp_path):
    dump = taxdump(tmp_path / "dump")
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    code = (
        "from pathlib import Path; from data_prep import taxonomy; "
        "from gpuwork.workspace import Workspace; "
        f"d = Path({str(dump)!r}); w = Workspace(Path({str(tmp_path / 'work')!r})); "
        "p = taxonomy.database(d, sha256=taxonomy.digest(d), workspace=w); "
        "assert taxonomy.lineages([562], database=p, taxdump=d)[562].current == 562"
    )
    root = str(Path(taxonomy.__file__).parents[1])
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            cwd=tmp_path / "here",
            env={**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": root},
        )
        for _ in range(2)
    ]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    left = [p for name in ("home", "here") for p in (tmp_path / name).iterdir()]
    assert left == []
    (folder,) = (tmp_path / "work" / "taxonomy").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "taxa.sqlite",
        "taxa.sqlite.traverse.pkl",
    ]


def test_an_existing_database_is_not_built_again(tmp_path, workspace):
    dump = taxdump(tmp_path / "dump")
    sha256 = taxonomy.digest(dump)
    first = taxonomy.database(dump, sha256=sha256, workspace=workspace)
    before = first.stat().st_mtime_ns
    assert taxonomy.database(tmp_path / "gone", sha256=sha256, workspace=workspace) == first
    assert first.stat().st_mtime_ns == before


def test_an_incomplete_taxdump_is_refused(tmp_path):
    dump = taxdump(tmp_path / "dump")
    (dump / "names.dmp").unlink()
    with pytest.raises(InputError, match=r"dump: lacks names\.dmp; give NCBI's taxdump"):
        taxonomy.digest(dump)


@pytest.mark.parametrize("content", [None, b"no archive"], ids=["missing", "damaged"])
def test_what_is_no_taxdump_is_refused(tmp_path, content):
    path = tmp_path / "taxdump.tar.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"taxdump\.tar\.gz: no taxdump \("):
        taxonomy.digest(path)


def test_a_taxdump_that_ete3_cannot_read_leaves_nothing(tmp_path):
    dump, workspace = taxdump(tmp_path / "dump"), Workspace(tmp_path / "work")
    (dump / "nodes.dmp").write_text("nonsense\n")
    with pytest.raises(InputError, match="dump: ete3 cannot read it"):
        taxonomy.database(dump, sha256=taxonomy.digest(dump), workspace=workspace)
    assert list((tmp_path / "work" / "taxonomy").iterdir()) == []
