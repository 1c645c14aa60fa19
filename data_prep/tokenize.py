"""Tokens of a corpus, vectorized over many fragments at once.

``python -m data_prep.tokenize NAME nt_v2`` turns ``corpus/<name>.h5`` into
``corpus/<name>.nt_v2.h5``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from data_prep.errors import InputError
from gpuwork import schema
from gpuwork.workspace import Workspace

Flat = tuple[npt.NDArray[np.uint16], npt.NDArray[np.int64]]
"""Tokens laid end to end, and the offset of each sequence with the total at the end."""

_BLOCK_BASES = 4_000_000
"""Bases encoded at once: some 200 MB of temporaries."""

_NT_V2 = (
    *("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"),
    *map("".join, itertools.product("ATCG", repeat=6)),
    *"ATCGN",
)
_UNK, _CLS, _FIRST_SIXMER = _NT_V2.index("<unk>"), _NT_V2.index("<cls>"), _NT_V2.index("AAAAAA")
_FIRST_SINGLE = len(_NT_V2) - len("ATCGN")
_BASE, _N, _OTHER, _SPACE = range(4)


def _byte_table(values: dict[int, bytes], *, default: int) -> npt.NDArray[np.uint8]:
    table = np.full(256, default, dtype=np.uint8)
    for value, letters in values.items():
        table[list(letters)] = value
    return table


_DIGIT = _byte_table({0: b"A", 1: b"T", 2: b"C", 3: b"G", 4: b"N"}, default=0)
_KIND = _byte_table({_BASE: b"ATCG", _N: b"N", _SPACE: b" \t\n\r\v\f"}, default=_OTHER)


def nt_v2(bases: npt.NDArray[np.uint8], offset: npt.NDArray[np.int64]) -> Flat:
    """Nucleotide Transformer v2: 6-mers.

    <cls> first, no <eos>. Runs of A, C, G, T give 6-mers from the left and single letters for
    the rest; each N is a token; each run of other characters, lower case included, is one <unk>;
    white space ends a run and gives nothing. Equal to the published tokenizer except that special
    tokens written out (``<mask>``) are not recognized: no sequence file has them.

    Parameters
    ----------
    bases, offset
        ASCII of shape (n_bases,) and where each sequence begins, shape (n_sequences + 1,).
    """
    kind, digit = _KIND[bases], _DIGIT[bases].astype(np.int64)
    begins = np.zeros(len(bases), dtype=bool)
    begins[1:] = kind[1:] != kind[:-1]
    begins[offset[:-1][offset[:-1] < len(bases)]] = True
    start = np.flatnonzero(begins)
    length = np.diff(start, append=len(bases))
    position = np.arange(len(bases)) - np.repeat(start, length)
    in_sixmer = (kind == _BASE) & (position < np.repeat(length // 6 * 6, length))
    is_token = (
        ((kind == _BASE) & (~in_sixmer | (position % 6 == 0)))
        | (kind == _N)
        | ((kind == _OTHER) & begins)
    )

    token = np.where(kind == _OTHER, _UNK, _FIRST_SINGLE + digit)
    sixmer = np.flatnonzero(in_sixmer & is_token)
    token[sixmer] = _FIRST_SIXMER + sum(digit[sixmer + k] * 4 ** (5 - k) for k in range(6))

    before = np.concatenate(([0], np.cumsum(is_token)))[offset] + np.arange(len(offset))
    flat = np.empty(before[-1], dtype=np.uint16)
    is_cls = np.zeros(len(flat), dtype=bool)
    is_cls[before[:-1]] = True
    flat[is_cls] = _CLS
    flat[~is_cls] = token[is_token]
    return flat, before


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a corpus becomes tokens.

    Attributes
    ----------
    vocabulary_sha256
        Of the published vocab.txt: tokens in the order of their ids, one a line.
    """

    encode: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.int64]], Flat]
    vocabulary_sha256: str
    unknown_id: int


TOKENIZERS = {
    "nt_v2": Tokenizer(nt_v2, hashlib.sha256("\n".join(_NT_V2).encode()).hexdigest(), _UNK),
}


def write_tokens(workspace: Workspace, *, corpus: str, tokenizer: str) -> str:
    """Write the token file of a corpus unless it is there; returns what was done, in words.

    Raises
    ------
    InputError
        Unknown tokenizer, or no such corpus.
    gpuwork.schema.SchemaError
        The corpus, or the token file in its place, is damaged.
    """
    if tokenizer not in TOKENIZERS:
        raise InputError(f"unknown tokenizer {tokenizer!r}; known: {', '.join(TOKENIZERS)}")
    row, source = TOKENIZERS[tokenizer], workspace.corpus(corpus)
    target = workspace.tokens(corpus, tokenizer)
    if not source.is_file():
        raise InputError(f"{source}: no such corpus; make it with python -m data_prep.corpus")
    schema.check(source, "corpus")
    with h5py.File(source, "r", locking=False) as file:
        digests = {
            "tokenizer_sha256": row.vocabulary_sha256,
            "corpus_sha256": str(file.attrs["content_sha256"]),
        }
        if _is_made(target, digests):
            return f"{target} is there already, made from this corpus: nothing to do"
        token, offset = _encoded(file, row)
    length = np.diff(offset)
    with schema.write(target, "tokens") as file:
        file.attrs.update(
            {
                "tokenizer": tokenizer,
                **digests,
                "unknown_share": float(np.count_nonzero(token == row.unknown_id) / len(token)),
                "shortest_tokens": int(length.min()),
                "median_tokens": float(np.median(length)),
                "longest_tokens": int(length.max()),
            }
        )
        for name, values in (("token", token), ("offset", offset)):
            schema.put(file, name, values, layout="tokens", plain=True)
    return f"wrote {target}: {len(length):,} fragments, {len(token):,} tokens"


def main(argv: Sequence[str] | None = None) -> int:
    """Tokenize a corpus of the workspace."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.tokenize", description=__doc__)
    parser.add_argument("corpus", metavar="NAME", help="corpus of the workspace")
    parser.add_argument("tokenizer", help=", ".join(TOKENIZERS))
    parser.add_argument("--site", type=Path, default=Path("site.toml"), metavar="TOML")
    args = parser.parse_args(argv)
    try:
        done = write_tokens(
            Workspace.locate(args.site), corpus=args.corpus, tokenizer=args.tokenizer
        )
    except (InputError, schema.SchemaError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 2
    Console().print(done, soft_wrap=True)
    return 0


def _is_made(target: Path, digests: dict[str, str]) -> bool:
    if not target.exists():
        return False
    schema.check(target, "tokens")
    with h5py.File(target, "r", locking=False) as file:
        return all(file.attrs[name] == value for name, value in digests.items())


def _encoded(corpus: h5py.File, tokenizer: Tokenizer) -> Flat:
    """All fragments, a block of whole fragments at a time."""
    offset = corpus["offset"][:]
    starts = np.searchsorted(offset, np.arange(0, offset[-1], _BLOCK_BASES))
    edges = np.unique(np.append(starts, len(offset) - 1))
    tokens, lengths = [], []
    console = Console(stderr=True)
    for first, last in track(
        list(itertools.pairwise(edges)),
        "tokenizing",
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ):
        bases = corpus["bases"][offset[first] : offset[last]]
        token, begins = tokenizer.encode(bases, offset[first : last + 1] - offset[first])
        tokens.append(token)
        lengths.append(np.diff(begins))
    return np.concatenate(tokens), np.concatenate(([0], np.cumsum(np.concatenate(lengths))))


if __name__ == "__main__":
    sys.exit(main())
