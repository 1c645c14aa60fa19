from __future__ import annotations

import itertools

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.fragment import Source, directory_sources, manifest_sources, read, select


def texts(fragments) -> list[str]:
    letters = fragments.bases.tobytes().decode()
    return [letters[a:b] for a, b in itertools.pairwise(fragments.offset.tolist())]


def genome(path, content: str, *, taxid: int | None = 5) -> Source:
    path.write_text(content)
    return Source(path, path.name, "Bacteria", taxid)


def test_genomes_are_cut_end_to_end_and_the_rest_is_counted(tmp_path):
    source = genome(tmp_path / "g.fa", ">a\nAACCgg\nTTA\n>b\nACG\n>c\nAC\n")
    fragments = read([source], fragment_bp=3)
    assert texts(fragments) == ["AAC", "CGG", "TTA", "ACG"]
    assert fragments.record.tolist() == [0, 0, 0, 1]
    assert fragments.taxid.tolist() == [5] * 4
    assert fragments.dropped == {"end of a record, shorter than 3 bp": 1}


@pytest.mark.parametrize(("ambiguous", "kept"), [("N", 2), ("NR", 1)])
def test_a_window_may_have_five_percent_ambiguous_letters(tmp_path, ambiguous, kept):
    window = ambiguous + "A" * (20 - len(ambiguous))
    fragments = read([genome(tmp_path / "g.fa", f">a\n{window}{'C' * 20}\n")], fragment_bp=20)
    assert len(texts(fragments)) == kept
    assert sum(fragments.dropped.values()) == 2 - kept


def test_ready_fragments_keep_their_length_and_name_their_taxid(tmp_path):
    (tmp_path / "Viruses_db.fa").write_text(">11 0\nACGTN\n>11\nAC\n")
    (tmp_path / "Archaea_db.fa").write_text(">7 0\nggnnnnnnnn\n")
    (tmp_path / "notes.fa").write_text("not a fragment file")
    sources = directory_sources(tmp_path)
    assert [source.superkingdom for source in sources] == ["Archaea", "Viruses"]
    fragments = read(sources, fragment_bp=1500)
    assert texts(fragments) == ["GGNNNNNNNN", "ACGTN", "AC"]
    assert fragments.taxid.tolist() == [7, 11, 11]
    assert fragments.source.tolist() == [0, 1, 1]
    assert fragments.record.tolist() == [0, 0, 1]


@pytest.mark.parametrize("header", ["abc 1", "", "1.5", "12345678901"])
def test_a_header_without_a_taxid_is_placed(tmp_path, header):
    source = genome(tmp_path / "Archaea_db.fa", f">7\nAC\n>{header}\nAC\n", taxid=None)
    with pytest.raises(InputError, match=r"record 2 \(line 3.*does not begin with a taxid"):
        read([source], fragment_bp=0)


def test_a_directory_without_fragment_files_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no file like Archaea_db\.fa"):
        directory_sources(tmp_path)


def test_selected_fragments_keep_their_order_and_origin(tmp_path):
    fragments = read([genome(tmp_path / "g.fa", ">a\nAACCGGTT\n>b\nTA\n")], fragment_bp=2)
    chosen = select(fragments, np.array([1, 3, 4]))
    assert texts(chosen) == ["CC", "TT", "TA"]
    assert chosen.record.tolist() == [0, 0, 1]


def test_a_manifest_may_have_further_columns(tmp_path):
    (tmp_path / "g.fa").write_text(">a\nAC\n")
    manifest = tmp_path / "m.tsv"
    manifest.write_text("file\tnote\ttaxid\tsuperkingdom\ng.fa\tx\t562\tBacteria\n")
    assert manifest_sources(manifest) == (Source(tmp_path / "g.fa", "g.fa", "Bacteria", 562),)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("superkingdom,taxid,file\n", ["lacks the column(s) superkingdom, taxid, file", "tabs"]),
        ("superkingdom\tfile\nBacteria\tg.fa\n", ["lacks the column(s) taxid", "has superkingdom"]),
        ("", ["lacks the column(s)", "has nothing"]),
        ("superkingdom\ttaxid\tfile\n", ["lists no genome"]),
        ("superkingdom\ttaxid\tfile\nBacteria\tE.coli\tg.fa\n", ["line 2", "'E.coli'", "number"]),
        ("superkingdom\ttaxid\tfile\nBacteria\t1\tno.fa\n", ["line 2", "no.fa", "relative"]),
        ("superkingdom\ttaxid\tfile\nBacteria\t1\n", ["line 2", "no file"]),
        ("superkingdom\ttaxid\tfile\nBacteria\t1\tg.fa\nBacteria\t1\tg.fa\n", ["g.fa twice"]),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path, content, parts):
    (tmp_path / "g.fa").write_text(">a\nAC\n")
    manifest = tmp_path / "m.tsv"
    manifest.write_text(content)
    with pytest.raises(InputError) as refused:
        manifest_sources(manifest)
    for part in ["m.tsv", *parts]:
        assert part in str(refused.value)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(InputError, match=r"m\.tsv: no such manifest"):
        manifest_sources(tmp_path / "m.tsv")


def test_a_quote_in_a_name_swallows_no_rows(tmp_path):
    manifest = tmp_path / "m.tsv"
    rows = ["superkingdom\ttaxid\tfile\torganism"]
    for number, name in enumerate(('"Candidatus Foo', "Bar", 'Baz "strain"')):
        (tmp_path / f"g{number}.fa").write_text(">a\nACGT\n")
        rows.append(f"Bacteria\t{number + 1}\tg{number}.fa\t{name}")
    manifest.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    assert [source.taxid for source in manifest_sources(manifest)] == [1, 2, 3]


def test_the_same_fragments_plain_and_compressed_are_refused(tmp_path):
    for ending in ("_db.fa", "_db.fa.gz"):
        (tmp_path / f"Viruses{ending}").touch()
    with pytest.raises(InputError, match=r"Viruses_db\.fa both plain and as \.gz; keep one"):
        directory_sources(tmp_path)
