from __future__ import annotations

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep import corpus, demo
from gpuwork import schema
from gpuwork.workspace import Workspace

SHARES = ["--test-share", "0.2", "--validation-share", "0.2"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A demo of 2 phyla: 13 genomes of 3,000 bp."""
    directory = tmp_path_factory.mktemp("raw") / "demo"
    demo.write(directory, phyla={"Archaea": 1, "Viruses": 1}, genome_bp=3000)
    return directory


@pytest.fixture(scope="module")
def taxonomies(tmp_path_factory) -> Path:
    """Databases built once for the module: each test's workspace links here."""
    return tmp_path_factory.mktemp("taxonomy")


@pytest.fixture
def site(tmp_path, taxonomies) -> Path:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "taxonomy").symlink_to(taxonomies)
    (tmp_path / "site.toml").touch()
    return tmp_path / "site.toml"


@pytest.fixture
def copy(raw, tmp_path) -> Path:
    """Raw input that a test may damage."""
    return Path(shutil.copytree(raw, tmp_path / "copy"))


def make(site: Path, directory: Path, *more: str, name: str = "toy", shares=SHARES) -> int:
    source = ["--manifest", str(directory / "manifest.tsv"), "--fragment-bp", "100"]
    taxdump = ["--taxdump", str(directory / "taxdump")]
    return corpus.main([name, *taxdump, *source, *shares, "--site", str(site), *more])


def path_of(site: Path, name: str = "toy") -> Path:
    return Workspace.locate(site).corpus(name)


def content(path: Path) -> dict:
    with h5py.File(path) as file:
        found = {"attributes": dict(file.attrs)}
        file.visititems(
            lambda name, item: (
                found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def test_a_corpus_holds_upper_case_fragments_with_labels_and_a_split(site, raw, capsys):
    assert make(site, raw) == 0
    schema.check(path_of(site), "corpus")
    found = content(path_of(site))
    assert set(np.unique(found["bases"])) <= set(b"ACGTN")
    assert set(np.diff(found["offset"])) == {100}
    assert found["class/superkingdom"].tolist() == [b"Archaea", b"Viruses"]
    assert found["class/genus"].tolist() == sorted(found["class/genus"].tolist())
    assert len(found["class/genus"]) == 6
    for level, n_classes in (("superkingdom", 2), ("phylum", 2), ("genus", 6)):
        counts = np.zeros((n_classes, 3), dtype=int)
        np.add.at(counts, (found[f"label/{level}"], found["split"]), 1)
        assert counts.min() >= 1
    files = [found["file"][i].decode() for i in found["record/file"]]
    former = demo.FIRST_TAXID - 1
    for file, group in zip(files, found["group"], strict=True):
        assert file.endswith(f"__{group}.fa")
        assert group > former
    shown = capsys.readouterr().out
    assert "no genus in its lineage" in shown
    report = path_of(site).with_suffix(".report.tsv").read_text()
    assert f"merged taxid\t{former}\t" in report
    assert "\ndropped taxid\t" in report


def test_the_first_fragment_is_the_head_of_the_first_genome(site, raw):
    make(site, raw)
    found = content(path_of(site))
    genome = raw / found["file"][0].decode()
    sequence = "".join(genome.read_text().splitlines()[1:]).upper()
    index = 0
    while sequence[index : index + 100].count("N") > 5:
        index += 100
    assert found["bases"][:100].tobytes().decode() == sequence[index : index + 100]


def test_the_digest_is_of_the_content_not_of_the_files(site, raw, copy):
    for genome in (copy / "genomes").iterdir():
        genome.with_suffix(".fa.gz").write_bytes(gzip.compress(genome.read_bytes()))
        genome.unlink()
    manifest = copy / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace(".fa", ".fa.gz"))
    assert make(site, raw) == 0
    assert make(site, copy, name="packed") == 0
    assert make(site, raw, "--seed", "43", name="seed") == 0
    plain, packed, seed = (
        content(path_of(site, name))["attributes"] for name in ("toy", "packed", "seed")
    )
    assert plain["content_sha256"] == packed["content_sha256"] != seed["content_sha256"]
    assert plain["inputs_sha256"] != packed["inputs_sha256"]
    inputs = json.loads(plain["inputs_sha256"])
    assert {"manifest.tsv", "taxdump"} < inputs.keys()
    assert not any(os.path.isabs(name) for name in inputs)  # noqa: PTH117 - names, not paths


def test_the_digest_follows_every_column():
    columns = {"bases": np.array([65, 67], dtype=np.uint8), "split": np.array([0], dtype=np.uint8)}
    names = {"genus": ("a", "b")}
    base = corpus.content_sha256(columns, names=names)
    assert base == corpus.content_sha256(dict(reversed(columns.items())), names=names)
    changed = [
        corpus.content_sha256({**columns, "split": np.array([1], dtype=np.uint8)}, names=names),
        corpus.content_sha256({**columns, "split": np.array([0], dtype=np.int32)}, names=names),
        corpus.content_sha256(columns, names={"genus": ("a", "c")}),
        corpus.content_sha256({"bases": columns["bases"]}, names=names),
    ]
    assert len({base, *changed}) == 5


def test_the_same_again_changes_nothing_and_other_options_are_refused(site, raw, capsys):
    make(site, raw)
    before = path_of(site).read_bytes()
    assert make(site, raw) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert make(site, raw, "--seed", "1") == 2
    assert "other options; choose another name" in capsys.readouterr().err
    assert path_of(site).read_bytes() == before


def test_a_damaged_corpus_is_not_taken_for_finished(site, raw, capsys):
    make(site, raw)
    path_of(site).write_bytes(path_of(site).read_bytes()[:5000])
    assert make(site, raw) == 2
    assert "make it again" in capsys.readouterr().err


def test_ready_fragments_are_taken_whole(site, raw, tmp_path):
    ready = tmp_path / "ready"
    ready.mkdir()
    lines = {"Archaea": [], "Viruses": []}
    for genome in sorted((raw / "genomes").iterdir()):
        superkingdom, _, taxid = genome.stem.partition("__")
        sequence = "".join(genome.read_text().splitlines()[1:])[:2000]
        for index, start in enumerate(range(0, 2000, 90)):
            lines[superkingdom] += [f">{taxid} {index}", sequence[start : start + 90]]
    for superkingdom, text in lines.items():
        (ready / f"{superkingdom}_db.fa").write_text("\n".join(text))
    source = ["--taxdump", str(raw / "taxdump"), "--fragments", str(ready), "--site", str(site)]
    assert corpus.main(["toy", *source, *SHARES]) == 0
    found = content(path_of(site))
    assert np.bincount(np.diff(found["offset"])).nonzero()[0].tolist() == [20, 90]
    assert len(found["group"]) == 12 * 23
    assert found["file"].tolist() == [b"Archaea_db.fa", b"Viruses_db.fa"]


def first_genome(directory: Path) -> Path:
    return min((directory / "genomes").iterdir())


def break_letter(directory):
    genome = first_genome(directory)
    genome.write_text(genome.read_text() + ">second\nACGJ\n")


def break_header(directory):
    first_genome(directory).write_text("ACGT\n")


def break_record(directory):
    first_genome(directory).write_text(">only a header\n")


def break_gzip(directory):
    genome = first_genome(directory)
    genome.with_suffix(".fa.gz").write_bytes(gzip.compress(genome.read_bytes())[:400])
    manifest = directory / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace(genome.name, f"{genome.name}.gz"))


def break_taxid(directory):
    manifest = directory / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("\t900000000\t", "\t123\t"))


def unclassify(directory):
    manifest = directory / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("\t900000000\t", "\t0\t"))


def encode_otherwise(directory):
    manifest = directory / "manifest.tsv"
    manifest.write_text(manifest.read_text() + "K\u00fctzing\n", encoding="latin-1")


def break_columns(directory):
    manifest = directory / "manifest.tsv"
    manifest.write_text(manifest.read_text().replace("taxid", "tax_id", 1))


def remove_genome(directory):
    first_genome(directory).unlink()


def remove_manifest(directory):
    (directory / "manifest.tsv").unlink()


def remove_taxdump(directory):
    shutil.rmtree(directory / "taxdump")


def change_nothing(directory):
    assert directory.exists()


@pytest.mark.parametrize(
    ("damage", "more", "parts"),
    [
        (break_letter, [], ["record 2 (line ", "'>second'", "'J' at base 4", "allowed are"]),
        (break_header, [], ["line 1", "Expected '>'"]),
        (break_record, [], ["record 1 (line 1", "no sequence", "remove the record"]),
        (break_gzip, [], [".fa.gz", "ends in the middle", "copy the file again"]),
        (break_taxid, [], ["taxid(s) 123 unknown", "newer taxdump", "--drop-unknown-taxids"]),
        (unclassify, [], ["taxid(s) 0 unknown"]),
        (encode_otherwise, [], ["manifest.tsv: is not UTF-8", "save it as UTF-8"]),
        (change_nothing, ["--seed", "-1"], ["--seed -1", "0 or above"]),
        (break_columns, [], ["manifest.tsv", "lacks the column(s) taxid", "tabs"]),
        (remove_genome, [], ["line 2", "no file", "relative to the manifest"]),
        (remove_manifest, [], ["manifest.tsv: no such manifest", "--manifest"]),
        (remove_taxdump, [], ["taxdump: no taxdump", "taxdump.tar.gz"]),
        (
            change_nothing,
            ["--test-share", "0.01"],
            [
                "6 of 6 classes too small",
                "Arch-P1-G1 (5",
                "--drop-classes-below 100",
                "larger shares",
            ],
        ),
        (
            change_nothing,
            ["--drop-classes-below", "999"],
            ["no fragment is left", "fewer than 999"],
        ),
        (
            change_nothing,
            ["--validation-share", "1"],
            ["--validation-share 1.0", "between 0 and 1"],
        ),
        (change_nothing, ["--fragment-bp", "0"], ["--fragment-bp 0", "1 or more"]),
        (change_nothing, ["--fragment-bp", "5000"], ["no fragment of 5000 bp", "smaller"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(site, copy, capsys, damage, more, parts):
    damage(copy)
    assert make(site, copy, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line
    assert not path_of(site).parent.exists()


def test_an_unknown_taxid_can_be_left_out(site, copy):
    break_taxid(copy)
    assert make(site, copy, "--drop-unknown-taxids") == 0
    report = path_of(site).with_suffix(".report.tsv").read_text()
    assert re.search("dropped taxid\t123\t[0-9]+\tunknown to the taxdump", report)


@pytest.mark.parametrize("name", ["a/b", "..", "toy.nt_v2", ""])
def test_a_name_is_a_plain_word(site, raw, name, capsys):
    assert make(site, raw, name=name) == 2
    assert "use letters, digits" in capsys.readouterr().err


def test_real_genomes_have_the_same_labels_under_both_taxdumps(site, shared):
    manifest = shared / "data" / "superkingdom_genomes" / "manifest.tsv"
    for year in (2024, 2025):
        taxdump = shared / "data" / f"taxdump_mini_{year}"
        source = ["--manifest", str(manifest), "--taxdump", str(taxdump), "--site", str(site)]
        assert corpus.main([f"y{year}", *source, "--drop-classes-below", "50"]) == 0
    old, new = (content(path_of(site, f"y{year}")) for year in (2024, 2025))
    assert old["attributes"]["content_sha256"] == new["attributes"]["content_sha256"]
    assert np.bincount(old["split"]).tolist() == [10_800, 1_200, 245]
    assert [len(old[f"class/{level}"]) for level in ("superkingdom", "phylum", "genus")] == [
        4,
        11,
        22,
    ]
