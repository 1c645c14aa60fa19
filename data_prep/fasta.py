"""Records of FASTA and FASTA.gz files, upper-cased and checked letter by letter."""

from __future__ import annotations

import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dnaio
from dnaio.exceptions import FileFormatError

from data_prep.errors import InputError

LETTERS = b"ACGTRYSWKMBDHVN"
"""The four bases and the IUPAC codes for more than one of them."""

_UPPER = bytes(range(256)).upper()


@dataclass(frozen=True, slots=True)
class Record:
    """One FASTA record.

    Attributes
    ----------
    name
        Header line without ``>``.
    index
        Position in the file, from 0.
    bases
        Upper-case letters, all of them in `LETTERS`.
    """

    name: str
    index: int
    bases: bytes


def records(path: Path) -> Iterator[Record]:
    """Read a file record by record.

    Raises
    ------
    InputError
        The file is missing, not FASTA, truncated or empty, or a record is empty or holds a letter
        outside `LETTERS`; names the file, the record and its line.
    """
    read = 0
    try:
        with _open(path) as file, dnaio.open(file, fileformat="fasta") as reader:
            for read, record in enumerate(reader, start=1):
                yield _checked(record.name, record.sequence, index=read - 1, path=path)
    except FileFormatError as error:
        line = "" if error.line is None else f" line {error.line + 1}:"
        raise InputError(f"{path}:{line} {error.message} Correct the file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text ({error}); give FASTA or FASTA.gz") from error
    except EOFError as error:
        raise InputError(
            f"{path}: gzip data ends in the middle, after record {read}; copy the file again"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: damaged gzip data after record {read} ({error}); copy the file again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not read:
        raise InputError(f"{path}: has no record; remove the file from the input or fill it")


def place(path: Path, *, index: int, name: str) -> str:
    """Where a record is, for an error message: file, record and line counted from 1, header."""
    with _open(path) as file:
        headers = (n for n, line in enumerate(file, start=1) if line.lstrip().startswith(b">"))
        line = next(itertools.islice(headers, index, None))
    return f"{path}: record {index + 1} (line {line}, '>{name}')"


def _open(path: Path) -> io.BufferedReader:
    """The file's bytes, unpacked.

    With the standard library's gzip because the errors of dnaio's own opener depend on which
    decompressor is installed.
    """
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.GzipFile(path))
    return path.open("rb")


def _checked(name: str, sequence: str, *, index: int, path: Path) -> Record:
    bases = sequence.encode("ascii").translate(_UPPER)
    if not bases:
        where = place(path, index=index, name=name)
        raise InputError(f"{where}: has no sequence; remove the record or complete it")
    if illegal := bases.translate(None, delete=LETTERS):
        where = place(path, index=index, name=name)
        position = bases.index(illegal[:1])
        advice = "write T for U" if illegal[:1] == b"U" else f"allowed are {LETTERS.decode()}"
        raise InputError(f"{where}: letter {sequence[position]!r} at base {position + 1}; {advice}")
    return Record(name, index, bases)
