from __future__ import annotations

import hashlib
import itertools
import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import tokenize
from data_prep.errors import InputError
from data_prep.tokenize import TOKENIZERS, nt_v2, write_tokens
from gpuwork import schema
from gpuwork.workspace import Workspace


def encoded(*sequences: str) -> list[list[int]]:
    offset = np.cumsum([0, *map(len, sequences)])
    token, edges = nt_v2(np.frombuffer("".join(sequences).encode(), dtype=np.uint8), offset)
    assert token.dtype == np.uint16
    return [token[a:b].tolist() for a, b in itertools.pairwise(edges.tolist())]


def golden(shared) -> list[dict]:
    """All published cases but <mask>: a special token written out is in no sequence file."""
    cases = json.loads((shared / "golden" / "tokens_nt_v2.json").read_text())
    without_mask = [case for case in cases if "<mask>" not in case["seq"]]
    assert len(cases) - len(without_mask) == 1
    return without_mask


def test_ids_are_the_published_ones_one_by_one(shared):
    for case in golden(shared):
        assert encoded(case["seq"]) == [case["ids"]], case["seq"]


def test_ids_are_the_published_ones_end_to_end(shared):
    cases = golden(shared)
    assert encoded(*(case["seq"] for case in cases)) == [case["ids"] for case in cases]


def test_the_vocabulary_is_the_published_one(shared):
    published = (shared / "data" / "tokenizers" / "nt" / "vocab.txt").read_bytes()
    assert TOKENIZERS["nt_v2"].vocabulary_sha256 == hashlib.sha256(published).hexdigest()


def by_hand(sequence: str) -> list[int]:
    """The rule spelled out: greedy 6-mers, single letters, N alone, one <unk> per other run."""
    ids = [3]
    for kind, run in itertools.groupby(sequence, key=lambda c: "ACGT".find(c) >= 0 or c):
        text = "".join(run)
        if kind is True:
            whole = len(text) // 6 * 6
            for start in range(0, whole, 6):
                digits = [int("ATCG".index(c)) for c in text[start : start + 6]]
                ids.append(6 + int("".join(map(str, digits)), base=4))
            ids += [4102 + "ATCG".index(c) for c in text[whole:]]
        elif kind == "N":
            ids += [4106] * len(text)
        elif ids[-1] != 0:
            ids.append(0)
    return ids


@given(st.lists(st.text(alphabet="ACGTACGTACGTNRYa", max_size=40), max_size=8))
def test_a_flat_block_equals_the_rule_sequence_by_sequence(sequences):
    assert encoded(*sequences) == [by_hand(sequence) for sequence in sequences]


def write_corpus(workspace: Workspace, *sequences: str) -> None:
    offset, n = np.cumsum([0, *map(len, sequences)]), len(sequences)
    with schema.write(workspace.corpus("toy"), "corpus") as file:
        file.attrs.update(
            {"name": "toy", "inputs_sha256": "{}", "options": "{}", "split_rule": "none", "seed": 0}
            | {
                "levels": ["genus"],
                "content_sha256": hashlib.sha256(repr(sequences).encode()).hexdigest(),
            }
        )
        columns = {
            "bases": np.frombuffer("".join(sequences).encode(), dtype=np.uint8),
            "offset": offset,
            "class/genus": ["g"],
            "file": ["f"],
        } | dict.fromkeys(("label/genus", "split", "group", "record/file", "record/index"), [0] * n)
        for name, values in columns.items():
            schema.put(file, name, values, layout="corpus")


def test_the_token_file_is_mappable_and_says_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenize, "_BLOCK_BASES", 10)
    workspace = Workspace(tmp_path)
    sequences = ("ACGTAC" * 3, "RY", "ACGTN", "A" * 13)
    write_corpus(workspace, *sequences)
    write_tokens(workspace, corpus="toy", tokenizer="nt_v2")
    path = workspace.tokens("toy", "nt_v2")
    schema.check(path, "tokens")
    with h5py.File(path) as file:
        assert file["token"].chunks is None
        assert file["token"].id.get_offset() is not None
        token, edges = file["token"][:], file["offset"][:].tolist()
        attributes = dict(file.attrs)
    found = [token[a:b].tolist() for a, b in itertools.pairwise(edges)]
    assert found == [by_hand(sequence) for sequence in sequences]
    assert attributes["unknown_share"] == 1 / 16
    lengths = [attributes[f"{which}_tokens"] for which in ("shortest", "median", "longest")]
    assert lengths == [2, 4, 6]


def test_tokens_are_made_once_per_corpus(tmp_path):
    workspace = Workspace(tmp_path)
    write_corpus(workspace, "ACGT")
    assert write_tokens(workspace, corpus="toy", tokenizer="nt_v2").startswith("wrote")
    assert write_tokens(workspace, corpus="toy", tokenizer="nt_v2").endswith("nothing to do")
    write_corpus(workspace, "ACGTACGT")
    assert write_tokens(workspace, corpus="toy", tokenizer="nt_v2").startswith("wrote")


def test_an_unknown_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown tokenizer 'dnabert2'; known: nt_v2"):
        write_tokens(Workspace(tmp_path), corpus="toy", tokenizer="dnabert2")


@pytest.mark.parametrize("damage", [None, b"no HDF5"], ids=["missing", "damaged"])
def test_the_command_refuses_a_corpus_it_cannot_use(tmp_path, capsys, damage):
    (tmp_path / "site.toml").touch()
    workspace = Workspace.locate(tmp_path / "site.toml")
    if damage is not None:
        workspace.corpus("toy").parent.mkdir(parents=True)
        workspace.corpus("toy").write_bytes(damage)
    assert tokenize.main(["toy", "nt_v2", "--site", str(tmp_path / "site.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "toy.h5" in line
    assert ("no such corpus" if damage is None else "make it again") in line
    assert not workspace.tokens("toy", "nt_v2").exists()
