"""The taxonomy study as it should be run: 120 cells.

What differs from `jobs.grids.taxonomy_paper`, and why:

- heads always train: randomly initialized heads that stay frozen bound what an adapter can show;
- a head_only control, so that an adapter's gain is not the head's;
- alpha = 2 x rank: a constant alpha makes a rank sweep a sweep of the update's scale too;
- a learning rate per strategy (`_learning_rate`);
- three seeds, because one run per cell has no spread.

Corpus, split, batches, epochs and precision are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuwork.registry import BACKBONES
from gpuwork.spec import Cell, Recipe

EXPECTED = {"train": 4_570_418, "validation": 507_824, "test": 103_638}
"""Fragments per split as published; `jobs.plan` predicts from them until the corpus is there."""

_BACKBONES = ("nt_v2_50m", "nt_v2_100m", "nt_v2_250m", "dnabert2", "dnabert_s")
_ADAPTER_LEARNING_RATE = {"lora": 1e-3, "ia3": 5e-3, "head_only": 1e-3}


def cells() -> Iterator[Cell]:
    """Five backbones x (full, random_init, frozen75, head_only, ia3, lora r 1, 8, 32) x 3 seeds."""
    for seed in (0, 1, 2):
        for backbone in _BACKBONES:
            for strategy in ("full", "random_init", "frozen75", "head_only", "ia3"):
                yield _cell(backbone, strategy, seed=seed)
            for rank in (1, 8, 32):
                yield _cell(backbone, "lora", seed=seed, rank=rank)


def _learning_rate(backbone: str, strategy: str) -> float:
    """Learning rate by a rule that looks at no test score.

    Where pre-trained weights move (full, random_init, frozen75): the published rate of the
    backbone. Where they do not, only small, freshly started tensors move and nothing can be
    forgotten, so the rate is larger: 1e-3 for LoRA and for a head alone (AdamW's default, some
    5 to 40 times the published rates), 5e-3 for the few scale vectors of (IA)3, whose authors
    trained at 3e-3 and which wants 10 to 50 times the rate of full fine-tuning.
    """
    return _ADAPTER_LEARNING_RATE.get(strategy, BACKBONES[backbone].published_learning_rate)


def _cell(backbone: str, strategy: str, *, seed: int, rank: int | None = None) -> Cell:
    return Cell(
        task="taxonomy",
        corpus="taxonomy",
        backbone=backbone,
        strategy=strategy,
        rank=rank,
        heads="trained",
        seed=seed,
        recipe=Recipe(
            learning_rate=_learning_rate(backbone, strategy),
            effective_batch=BACKBONES[backbone].published_batch,
            epochs=5,
            patience=3,
            precision="tf32",
            alpha_rule=None if rank is None else "twice_rank",
            adapter_dropout=None if rank is None else 0.1,
        ),
    )
