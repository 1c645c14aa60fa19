"""A corpus of 96 short fragments, its tokens and a nano backbone: made in a second, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuwork import schema
from gpuwork.spec import Cell, Execution, Recipe
from gpuwork.workspace import Workspace

CLASSES = {"superkingdom": 2, "phylum": 3, "genus": 4}
CORPUS_SHA256 = "c" * 64
CPU = Execution(device="cpu", micro_batch=8)
FRAGMENTS = 96


def write_corpus(workspace: Workspace, *, name: str = "tiny", seed: int = 0) -> None:
    """Fragment i has genus i % 4; its tokens are drawn mostly from 50 ids of that genus' own."""
    rng = np.random.default_rng(seed)
    genus = np.arange(FRAGMENTS) % 4
    lengths = rng.integers(5, 12, size=FRAGMENTS)
    tokens = []
    for own, length in zip(genus, lengths, strict=True):
        common = rng.integers(6, 4102, size=length)
        special = 6 + own * 50 + rng.integers(0, 50, size=length)
        tokens.append(np.where(rng.random(length) < 0.7, special, common))
        tokens[-1][0] = 3
    offset = np.concatenate([[0], np.cumsum(lengths)])
    labels = {"superkingdom": genus // 2, "phylum": np.minimum(genus, 2), "genus": genus}
    split = np.where(np.arange(FRAGMENTS) % 6 < 4, 0, np.where(np.arange(FRAGMENTS) % 6 == 4, 1, 2))
    with schema.write(workspace.corpus(name), "corpus") as file:
        file.attrs.update(
            name=name,
            levels=list(CLASSES),
            content_sha256=CORPUS_SHA256,
            inputs_sha256="{}",
            options="{}",
            split_rule="every sixth",
            seed=seed,
        )
        put = {"bases": np.full(offset[-1], ord("A")), "offset": offset, "split": split}
        put |= {"group": genus, "record/file": 0 * genus, "record/index": np.arange(FRAGMENTS)}
        put |= {"file": ["none"]} | {f"label/{level}": value for level, value in labels.items()}
        put |= {
            f"class/{level}": [f"{level}-{i}" for i in range(n)] for level, n in CLASSES.items()
        }
        for column, values in put.items():
            schema.put(file, column, values, layout="corpus")
    with schema.write(workspace.tokens(name, "nt_v2"), "tokens") as file:
        file.attrs.update(
            tokenizer="nt_v2",
            tokenizer_sha256="d" * 64,
            corpus_sha256=CORPUS_SHA256,
            unknown_share=0.0,
            shortest_tokens=int(lengths.min()),
            median_tokens=float(np.median(lengths)),
            longest_tokens=int(lengths.max()),
        )
        schema.put(file, "token", np.concatenate(tokens), layout="tokens", plain=True)
        schema.put(file, "offset", offset, layout="tokens")


def write_nano(workspace: Workspace) -> None:
    """Nano weights as a seeded random start gives them."""
    import torch

    from gpuwork.backbones import build, save
    from gpuwork.registry import BACKBONES

    torch.manual_seed(0)
    row = BACKBONES["nt_v2_nano"]
    save(build(row), row, workspace.model(row.name))


def make_workspace(root: Path) -> Workspace:
    """Corpus, tokens and nano weights under a new root."""
    workspace = Workspace(root)
    write_corpus(workspace)
    write_nano(workspace)
    return workspace


def make_cell(strategy: str = "full", *, heads: str = "trained", **changes: object) -> Cell:
    """A cell on the tiny corpus; keyword arguments replace fields of its recipe."""
    adapter: dict[str, object] = {}
    rank = None
    if strategy == "lora":
        rank, adapter = 2, {"alpha_rule": "twice_rank", "adapter_dropout": 0.1}
    settings = {"learning_rate": 1e-3, "effective_batch": 16, "epochs": 3, "patience": 3}
    recipe = Recipe(**{**settings, "max_tokens": 32, **adapter, **changes})  # type: ignore[arg-type]
    return Cell(
        task="taxonomy",
        corpus="tiny",
        corpus_sha256=CORPUS_SHA256,
        backbone="nt_v2_nano",
        strategy=strategy,
        heads=heads,
        seed=0,
        rank=rank,
        recipe=recipe,
    )
