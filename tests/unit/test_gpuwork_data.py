from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwork.data import collate, epoch_order, open_dataset
from gpuwork.schema import SchemaError
from gpuwork.workspace import Workspace
from tests import tiny
from tests.tamper import edited

LEVELS = tuple(tiny.CLASSES)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("data"))
    tiny.write_corpus(place)
    return place


@pytest.fixture(scope="module")
def dataset(workspace):
    return open_dataset(workspace, corpus="tiny", tokenizer="nt_v2", levels=LEVELS)


def test_the_mapped_tokens_are_those_in_the_file(workspace, dataset):
    with h5py.File(workspace.tokens("tiny", "nt_v2")) as file:
        np.testing.assert_array_equal(dataset.token, file["token"][:])


def test_splits_and_labels(dataset):
    assert {name: len(rows) for name, rows in dataset.rows.items()} == {
        "train": 64,
        "validation": 16,
        "test": 16,
    }
    assert dataset.rows["validation"][:3].tolist() == [4, 10, 16]
    assert dataset.labels[:4].tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 2], [1, 2, 3]]
    assert dataset.classes["genus"] == ["genus-0", "genus-1", "genus-2", "genus-3"]


def test_a_batch_holds_each_fragment_and_pads_the_rest(dataset):
    rows = np.array([5, 0])
    batch = collate(dataset, rows, max_tokens=32, pad_id=1)
    for line, row in enumerate(rows):
        own = dataset.token[dataset.offset[row] : dataset.offset[row + 1]].tolist()
        padding = batch.input_ids.shape[1] - len(own)
        assert batch.input_ids[line].tolist() == own + [1] * padding
        if batch.attention_mask is not None:
            assert batch.attention_mask[line].tolist() == [True] * len(own) + [False] * padding
    assert batch.labels.tolist() == dataset.labels[rows].tolist()
    assert batch.tokens == sum(np.diff(dataset.offset)[rows])


def test_equal_lengths_need_no_mask_and_long_fragments_are_cut(dataset):
    batch = collate(dataset, np.arange(6), max_tokens=5, pad_id=1)
    assert batch.attention_mask is None
    assert batch.input_ids.shape == (6, 5)
    assert batch.tokens == 30


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
def test_the_order_is_a_permutation_and_a_function_of_seed_and_epoch(seed, epoch):
    rows = np.arange(3, 40)
    order = epoch_order(rows, seed=seed, epoch=epoch)
    assert sorted(order) == rows.tolist()
    np.testing.assert_array_equal(order, epoch_order(rows, seed=seed, epoch=epoch))


def test_epochs_and_seeds_differ():
    rows = np.arange(100)
    first = epoch_order(rows, seed=0, epoch=0)
    assert not np.array_equal(first, epoch_order(rows, seed=0, epoch=1))
    assert not np.array_equal(first, epoch_order(rows, seed=1, epoch=0))


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(SchemaError, match=r"tiny\.h5: no such file; make it with `make corpus"):
        open_dataset(Workspace(tmp_path), corpus="tiny", tokenizer="nt_v2", levels=LEVELS)


def test_tokens_of_another_corpus_are_refused(tmp_path):
    workspace = Workspace(tmp_path)
    tiny.write_corpus(workspace)
    with edited(workspace.tokens("tiny", "nt_v2")) as file:
        file.attrs["corpus_sha256"] = "e" * 64
    with pytest.raises(SchemaError, match="made from corpus eeeeeeeeeeee"):
        open_dataset(workspace, corpus="tiny", tokenizer="nt_v2", levels=LEVELS)


def test_an_absent_level_is_named(workspace):
    with pytest.raises(SchemaError, match=r"no labels for \['species'\]"):
        open_dataset(workspace, corpus="tiny", tokenizer="nt_v2", levels=("genus", "species"))


def test_a_flipped_bit_in_the_tokens_is_refused(tmp_path):
    workspace = Workspace(tmp_path)
    tiny.write_corpus(workspace)
    path = workspace.tokens("tiny", "nt_v2")
    with h5py.File(path) as file:
        start = file["token"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(SchemaError, match="its bytes are not those that were written"):
        open_dataset(workspace, corpus="tiny", tokenizer="nt_v2", levels=LEVELS)
