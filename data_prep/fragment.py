"""Fragments from two kinds of input: genomes listed in a manifest, or ready fragments."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_prep.errors import InputError
from data_prep.fasta import Record, place, records

MANIFEST_COLUMNS = ("superkingdom", "taxid", "file")
AMBIGUOUS_SHARE = 0.05
"""A window of a genome with a larger share of letters other than A, C, G, T is dropped."""

_TAXID = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Source:
    """A FASTA file and what its owner says about it.

    Attributes
    ----------
    name
        Path as written in the manifest, or file name.
    taxid
        Of every record, and the records are genomes; None where every record is a fragment whose
        header begins with its taxid.
    """

    path: Path
    name: str
    superkingdom: str
    taxid: int | None


@dataclass(frozen=True, slots=True)
class Fragments:
    """Fragments laid end to end.

    Attributes
    ----------
    bases
        uint8 of shape (n_bases,): upper-case ASCII letters.
    offset
        int64 of shape (n_fragments + 1,): where each fragment begins in `bases`.
    taxid, source, record
        int64 of shape (n_fragments,): taxid as given, index of the source, record in its file.
    dropped
        Why pieces were left out, and how many.
    """

    bases: npt.NDArray[np.uint8]
    offset: npt.NDArray[np.int64]
    taxid: npt.NDArray[np.int64]
    source: npt.NDArray[np.int64]
    record: npt.NDArray[np.int64]
    dropped: dict[str, int]


def manifest_sources(manifest: Path) -> tuple[Source, ...]:
    """Genomes of a tab-separated table with the columns `MANIFEST_COLUMNS`, others ignored.

    Raises
    ------
    InputError
        The table or a file in it is missing, a column is missing, a taxid is no number, or a file
        is listed twice; names the table and the line.
    """
    if not manifest.is_file():
        raise InputError(f"{manifest}: no such manifest; give a TSV file with --manifest")
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{manifest}: is not UTF-8 ({error}); save it as UTF-8 text") from error
    with io.StringIO(text, newline="") as file:
        # No quotes: an organism's name may begin with one, and would swallow the rows behind it.
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        absent = [column for column in MANIFEST_COLUMNS if column not in (table.fieldnames or ())]
        if absent:
            raise InputError(
                f"{manifest}: lacks the column(s) {', '.join(absent)}; has "
                f"{', '.join(table.fieldnames or ()) or 'nothing'}; separate columns with tabs"
            )
        sources = tuple(
            _genome(row, where=f"{manifest}: line {table.line_num}", folder=manifest.parent)
            for row in table
        )
    if not sources:
        raise InputError(f"{manifest}: lists no genome; add a row per FASTA file")
    twice = [
        name for name, count in Counter(source.name for source in sources).items() if count > 1
    ]
    if twice:
        raise InputError(f"{manifest}: lists {', '.join(twice)} twice; keep one row per file")
    return sources


def directory_sources(directory: Path) -> tuple[Source, ...]:
    """Ready fragments in the BERTax form: one ``<superkingdom>_db.fa`` (or .fa.gz) each.

    Records are ``>{taxid} {running index}`` or ``>{taxid}``.

    Raises
    ------
    InputError
        The directory has no such file, or one both plain and compressed.
    """
    paths = sorted(
        path for ending in ("_db.fa", "_db.fa.gz") for path in directory.glob(f"*{ending}")
    )
    if not paths:
        raise InputError(
            f"{directory}: has no file like Archaea_db.fa; give the directory of such files with "
            "--fragments"
        )
    named = Counter(path.name.partition("_db.fa")[0] for path in paths)
    if twice := [f"{name}_db.fa" for name, count in named.items() if count > 1]:
        raise InputError(
            f"{directory}: has {', '.join(twice)} both plain and as .gz; keep one of each"
        )
    return tuple(Source(path, path.name, path.name.partition("_db.fa")[0], None) for path in paths)


def read(sources: Iterable[Source], *, fragment_bp: int) -> Fragments:
    """Read all sources, cutting genomes into windows.

    Parameters
    ----------
    fragment_bp
        Length of a window of a genome; ready fragments keep theirs.

    Raises
    ------
    InputError
        A file or record is malformed, or there is no fragment at all.
    """
    bases = bytearray()
    columns = {name: array("q") for name in ("length", "taxid", "source", "record")}
    dropped: Counter[str] = Counter()
    for number, source in enumerate(sources):
        for record in records(source.path):
            if source.taxid is None:
                taxid, pieces = _taxid(record, path=source.path), [record.bases]
            else:
                taxid = source.taxid
                pieces = list(_windows(record.bases, fragment_bp=fragment_bp, dropped=dropped))
            for piece in pieces:
                bases += piece
                row = (len(piece), taxid, number, record.index)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    if not columns["length"]:
        raise InputError(
            f"the input has no fragment of {fragment_bp} bp ({dict(dropped)}); give longer "
            "genomes or a smaller --fragment-bp"
        )
    length, taxid_of, source_of, record_of = (
        np.array(column, dtype=np.int64) for column in columns.values()
    )
    return Fragments(
        bases=np.frombuffer(bases, dtype=np.uint8),
        offset=_offset(length),
        taxid=taxid_of,
        source=source_of,
        record=record_of,
        dropped=dict(dropped),
    )


def select(fragments: Fragments, keep: npt.NDArray[np.int64]) -> Fragments:
    """The fragments with these indices, in this order."""
    whole = fragments.bases.data
    starts, ends = fragments.offset[keep].tolist(), fragments.offset[keep + 1].tolist()
    pieces = (whole[start:end] for start, end in zip(starts, ends, strict=True))
    return Fragments(
        bases=np.frombuffer(b"".join(pieces), dtype=np.uint8),
        offset=_offset(np.diff(fragments.offset)[keep]),
        taxid=fragments.taxid[keep],
        source=fragments.source[keep],
        record=fragments.record[keep],
        dropped=fragments.dropped,
    )


def _offset(length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(length)), dtype=np.int64)


def _genome(row: dict[str, str | None], *, where: str, folder: Path) -> Source:
    superkingdom, taxid, name = ((row[column] or "").strip() for column in MANIFEST_COLUMNS)
    if not _TAXID.fullmatch(taxid):
        raise InputError(
            f"{where}: taxid {taxid!r} is not a number of at most 9 digits; write NCBI's"
        )
    path = folder / name
    if not (name and path.is_file()):
        raise InputError(f"{where}: no file {path}; paths are relative to the manifest")
    return Source(path, name, superkingdom, int(taxid))


def _taxid(record: Record, *, path: Path) -> int:
    first = "".join(record.name.split(maxsplit=1)[:1])
    if not _TAXID.fullmatch(first):
        where = place(path, index=record.index, name=record.name)
        raise InputError(f"{where}: does not begin with a taxid; write '>{{taxid}} {{index}}'")
    return int(first)


def _windows(genome: bytes, *, fragment_bp: int, dropped: Counter[str]) -> Iterator[bytes]:
    """Windows cut end to end; what is left out is added to `dropped`."""
    whole = len(genome) // fragment_bp * fragment_bp
    if whole < len(genome):
        dropped[f"end of a record, shorter than {fragment_bp} bp"] += 1
    for start in range(0, whole, fragment_bp):
        window = genome[start : start + fragment_bp]
        if len(window.translate(None, delete=b"ACGT")) > AMBIGUOUS_SHARE * fragment_bp:
            dropped[f"window with more than {AMBIGUOUS_SHARE:.0%} other than A, C, G, T"] += 1
        else:
            yield window
