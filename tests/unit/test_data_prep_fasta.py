from __future__ import annotations

import gzip

import numpy as np
import pytest

from data_prep.errors import InputError
from data_prep.fasta import Record, place, records


def write(path, content: bytes):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.fa", "a.fa.gz", "a.without_extension"])
def test_records_are_joined_and_upper_case(tmp_path, name):
    path = write(tmp_path / name, b">7 1\nacg\nTNr\n\n>7 2\r\nA\r\n")
    assert list(records(path)) == [Record("7 1", 0, b"ACGTNR"), Record("7 2", 1, b"A")]


def test_all_iupac_letters_are_read(tmp_path):
    path = write(tmp_path / "a.fa", b">x\nACGTRYSWKMBDHVNacgtryswkmbdhvn\n")
    assert next(records(path)).bases == b"ACGTRYSWKMBDHVN" * 2


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"ACGT\n>1\nACGT\n", ["line 1:", "Expected '>'", "ACGT"]),
        (b">1\nAC\n\n>2 b\n>3\nAC\n", ["record 2 (line 4, '>2 b')", "no sequence", "remove"]),
        (b">1\nAC\n>2\n", ["record 2 (line 3, '>2')", "no sequence"]),
        (
            b">1\nAC\n>2\nAC\nGTJA\n",
            ["record 2 (line 3, '>2')", "'J' at base 5", "ACGTRYSWKMBDHVN"],
        ),
        (b">1\nACGu\n", ["record 1 (line 1, '>1')", "'u' at base 4", "write T for U"]),
        (b">1\nAC GT\n", ["' ' at base 3"]),
        (b">1\nAC-GT*\n", ["'-' at base 3"]),
        (b"", ["no record"]),
        (b">1\nAC\xff\n", ["not text"]),
        (">1\nACé\n".encode(), ["ASCII"]),
    ],
)
@pytest.mark.parametrize("name", ["bad.fa", "bad.fa.gz"])
def test_bad_content_is_refused_with_its_place(tmp_path, name, content, parts):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as refused:
        list(records(path))
    for part in [name, *parts]:
        assert part in str(refused.value)


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_gzip_is_refused(tmp_path, kept):
    path = tmp_path / "cut.fa.gz"
    sequence = np.random.default_rng(0).choice(list(b"ACGT"), 50_000).astype(np.uint8).tobytes()
    whole = gzip.compress(b">1\nACGT\n>2\n" + sequence)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(
        InputError, match=r"cut\.fa\.gz: gzip data ends in the middle.*copy the file"
    ):
        list(records(path))


@pytest.mark.parametrize(
    "content", [b">1\nACGT\n", gzip.compress(b">1\nACGT\n")[:-8] + bytes(8)], ids=["plain", "crc"]
)
def test_a_damaged_gzip_is_refused(tmp_path, content):
    path = tmp_path / "bad.fa.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.fa\.gz: damaged gzip data"):
        list(records(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.fa: cannot be read \(No such file"):
        list(records(tmp_path / "nowhere.fa"))


def test_a_record_is_placed_by_its_line(tmp_path):
    path = write(tmp_path / "a.fa.gz", b">a\nAC\nGT\n\n>b\nAC\n")
    assert place(path, index=1, name="b") == f"{path}: record 2 (line 5, '>b')"
