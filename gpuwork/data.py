"""Memory-mapped tokens and their labels, cut into batches whose order is a pure function.

Axes: B sequences, T tokens, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpuwork.layouts import SPLITS
from gpuwork.schema import SchemaError, check, strings
from gpuwork.workspace import Workspace

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Dataset:
    """One corpus as one tokenizer sees it.

    Attributes
    ----------
    token
        Flat token ids, mapped from the file, so that all processes of a node share the pages.
    offset
        Fragment i is ``token[offset[i]:offset[i + 1]]``.
    labels
        (fragments, L) class indices, levels coarse to fine.
    rows
        Fragment numbers of each split, ascending.
    classes
        Class names of each level.
    facts
        Digests of the files, for the provenance of a result.
    """

    token: npt.NDArray[np.uint16]
    offset: Ints
    labels: Ints
    rows: dict[str, Ints]
    classes: dict[str, list[str]]
    facts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tokens of some fragments.

    Attributes
    ----------
    input_ids
        (B, T) int64.
    attention_mask
        (B, T) bool, False on padding; None where nothing is padded.
    labels
        (B, L) int64.
    tokens
        Real tokens in the batch.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor
    tokens: int


def open_dataset(
    workspace: Workspace, *, corpus: str, tokenizer: str, levels: tuple[str, ...]
) -> Dataset:
    """Open a corpus' labels and its tokens.

    Raises
    ------
    SchemaError
        A file is absent, lacks a level, is damaged, or the tokens were made from another corpus.
    """
    corpus_path, tokens_path = workspace.corpus(corpus), workspace.tokens(corpus, tokenizer)
    for path in (corpus_path, tokens_path):
        if not path.exists():
            raise SchemaError(f"{path}: no such file; make it with `make corpus NAME={corpus}`")
    with h5py.File(corpus_path, "r", locking=False) as file:
        if absent := [level for level in levels if f"label/{level}" not in file]:
            raise SchemaError(f"{corpus_path}: has no labels for {absent}")
        content = str(file.attrs["content_sha256"])
        labels = np.stack([file[f"label/{level}"][:] for level in levels], axis=1)
        split = file["split"][:]
        classes = {level: strings(file[f"class/{level}"]) for level in levels}
    # Reads the file from end to end once: nothing damaged is trained on, and its pages are cached
    # before random access begins.
    check(tokens_path, "tokens")
    with h5py.File(tokens_path, "r", locking=False) as file:
        if (made_from := str(file.attrs["corpus_sha256"])) != content:
            raise SchemaError(
                f"{tokens_path}: made from corpus {made_from[:12]}, but {corpus_path} is "
                f"{content[:12]}; run `python -m data_prep.tokenize {corpus} {tokenizer}`"
            )
        offset = file["offset"][:]
        facts = {
            "corpus_sha256": content,
            "tokenizer_sha256": str(file.attrs["tokenizer_sha256"]),
        }
        start, shape = file["token"].id.get_offset(), file["token"].shape
    return Dataset(
        token=_map(tokens_path, start=start, shape=shape),
        offset=offset,
        labels=labels.astype(np.int64),
        rows={name: np.flatnonzero(split == code) for code, name in enumerate(SPLITS)},
        classes=classes,
        facts=facts,
    )


def epoch_order(rows: Ints, *, seed: int, epoch: int) -> Ints:
    """The rows of an epoch in training order: a function of (seed, epoch) alone."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def collate(dataset: Dataset, rows: Ints, *, max_tokens: int, pad_id: int) -> Batch:
    """Gather fragments into one padded batch; longer ones are cut at the end."""
    start = dataset.offset[rows]
    length = np.minimum(dataset.offset[rows + 1] - start, max_tokens)
    column = np.arange(int(length.max()))
    real = column < length[:, None]
    index = np.where(real, start[:, None] + column, 0)
    ids = np.where(real, dataset.token[index], pad_id).astype(np.int64)
    return Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=None if real.all() else torch.from_numpy(real),
        labels=torch.from_numpy(dataset.labels[rows]),
        tokens=int(length.sum()),
    )


def _map(path: Path, *, start: int | None, shape: tuple[int, ...]) -> npt.NDArray[np.uint16]:
    if start is None:
        raise SchemaError(f"{path}: tokens are not contiguous; make the file again")
    return np.memmap(path, dtype=np.uint16, mode="r", offset=start, shape=shape)
