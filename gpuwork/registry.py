"""The tables: every task, backbone and strategy there is, a row each.

Whatever differs between two backbones stands in their rows and nowhere else. Standard library
only, so that the login node, the laptop and the compute node read the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is predicted.

    Attributes
    ----------
    levels
        Label levels, coarse to fine; one linear head each, losses summed.
    """

    name: str
    levels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """One pre-trained encoder: everything in which it differs from the others.

    Attributes
    ----------
    hub_id, revision
        Where the published checkpoint lies and the pinned commit; None for a backbone that is
        trained here (``gpuwork.pretrain``).
    architecture
        Key of ``gpuwork.backbones.ARCHITECTURES``.
    layers, width, heads, inner_width, vocabulary, positions
        Shape; `inner_width` is one half of the gated feed-forward, `positions` the rows of the
        (unused) position table of the checkpoint.
    context_tokens
        Longest sequence the backbone was trained for.
    parameters
        Size of the whole module as published, dead tensors included; checked at load.
    lora_targets, ia3_targets, ia3_feedforward
        Regular expressions over full module names, matched from end to end.
    lora_modules, ia3_modules
        Exact number of modules each expression must match.
    published_learning_rate, published_batch
        What Berman et al. 2025 used for every strategy; the batch is the effective one.
    """

    name: str
    architecture: str
    hub_id: str | None
    revision: str | None
    tokenizer: str
    pad_id: int
    mask_id: int
    layers: int
    width: int
    heads: int
    inner_width: int
    vocabulary: int
    positions: int
    context_tokens: int
    tied_decoder: bool
    parameters: int
    lora_targets: str
    lora_modules: int
    ia3_targets: str
    ia3_modules: int
    ia3_feedforward: str
    licence: str
    published_learning_rate: float
    published_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """How the backbone is adapted.

    Attributes
    ----------
    promise
        What trains, in words; ``gpuwork.audit`` holds the model to it.
    is_adapter
        Weights are added by peft and the backbone itself stays frozen.
    has_rank
        A rank, an alpha rule and a dropout belong to the cell.
    heads
        Allowed values of ``Cell.heads``.
    """

    name: str
    promise: str
    is_adapter: bool
    has_rank: bool
    heads: tuple[str, ...]


TASKS: dict[str, Task] = {
    task.name: task for task in (Task(name="taxonomy", levels=("superkingdom", "phylum", "genus")),)
}

_NT_LAYER = r"backbone\.esm\.encoder\.layer\.\d+\."
_BERT_LAYER = r"backbone\.bert\.encoder\.layer\.\d+\."


def _nucleotide_transformer(name: str, *, layers: int, **row: Any) -> Backbone:
    """A row of the NT-v2 family, which differs in size, weights and published settings alone."""
    return Backbone(
        **{
            "name": name,
            "layers": layers,
            "architecture": "nucleotide_transformer",
            "tokenizer": "nt_v2",
            "pad_id": 1,
            "mask_id": 2,
            "heads": 16,
            "vocabulary": 4107,
            "positions": 2050,
            "context_tokens": 2048,
            "tied_decoder": False,
            "lora_targets": _NT_LAYER + r"attention\.self\.(query|value)",
            "lora_modules": 2 * layers,
            "ia3_targets": _NT_LAYER + r"attention\.(self\.(query|value)|output\.dense)",
            "ia3_modules": 3 * layers,
            "ia3_feedforward": _NT_LAYER + r"attention\.output\.dense",
            "licence": "CC-BY-NC-SA-4.0",
            **row,
        }
    )


def _dnabert(name: str, *, hub_id: str) -> Backbone:
    """DNABERT-2 and DNABERT-S: one architecture, two sets of weights."""
    return Backbone(
        name=name,
        architecture="mosaic_bert",
        hub_id=hub_id,
        revision=None,
        tokenizer="dnabert2",
        pad_id=3,
        mask_id=4,
        layers=12,
        width=768,
        heads=12,
        inner_width=3072,
        vocabulary=4096,
        positions=0,
        context_tokens=2048,
        tied_decoder=True,
        parameters=117_068_544,
        lora_targets=_BERT_LAYER + r"attention\.self\.Wqkv",
        lora_modules=12,
        ia3_targets=_BERT_LAYER + r"attention\.(self\.Wqkv|output\.dense)",
        ia3_modules=24,
        ia3_feedforward=_BERT_LAYER + r"attention\.output\.dense",
        licence="Apache-2.0",
        published_learning_rate=2.5e-5,
        published_batch=64,
    )


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        _nucleotide_transformer(
            "nt_v2_nano",
            hub_id=None,
            revision=None,
            layers=2,
            width=64,
            heads=4,
            inner_width=128,
            positions=64,
            tied_decoder=True,
            parameters=358_420,
            licence="Apache-2.0",
            published_learning_rate=2e-4,
            published_batch=16,
        ),
        _nucleotide_transformer(
            "nt_v2_50m",
            hub_id="InstaDeepAI/nucleotide-transformer-v2-50m-multi-species",
            revision="81b29e5786726d891dbf929404ef20adca5b36f1",
            layers=12,
            width=512,
            inner_width=2048,
            parameters=55_904_972,
            published_learning_rate=2e-4,
            published_batch=128,
        ),
        _nucleotide_transformer(
            "nt_v2_100m",
            hub_id="InstaDeepAI/nucleotide-transformer-v2-100m-multi-species",
            revision=None,
            layers=22,
            width=512,
            inner_width=2048,
            parameters=97_889_132,
            published_learning_rate=1e-4,
            published_batch=64,
        ),
        _nucleotide_transformer(
            "nt_v2_250m",
            hub_id="InstaDeepAI/nucleotide-transformer-v2-250m-multi-species",
            revision=None,
            layers=24,
            width=768,
            inner_width=3072,
            parameters=235_120_780,
            published_learning_rate=1e-4,
            published_batch=64,
        ),
        _dnabert("dnabert2", hub_id="zhihan1996/DNABERT-2-117M"),
        _dnabert("dnabert_s", hub_id="zhihan1996/DNABERT-S"),
    )
}

_TRAINED, _EITHER = ("trained",), ("trained", "frozen")

STRATEGIES: dict[str, Strategy] = {
    name: Strategy(name=name, promise=promise, is_adapter=adapter, has_rank=rank, heads=heads)
    for name, promise, adapter, rank, heads in (
        ("full", "every tensor", False, False, _TRAINED),
        ("random_init", "every tensor, from a random start", False, False, _TRAINED),
        ("frozen75", "tensors after the first 75 % of the weights", False, False, _TRAINED),
        ("head_only", "the heads", False, False, _TRAINED),
        ("lora", "two low-rank factors per target module", True, True, _EITHER),
        ("ia3", "one scale vector per target module", True, False, _EITHER),
    )
}
