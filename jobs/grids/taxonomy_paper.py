"""The study as Berman et al. 2025 ran it (bioRxiv 10.1101/2025.08.21.671544): 28 cells.

Five backbones x full, random_init, frozen75, (IA)3 and LoRA rank 1, plus LoRA rank 4 at two
learning rates and rank 20 on nt_v2_50m. Every adapter trains with frozen heads, LoRA's alpha is 32
at every rank, one seed, and every strategy uses the learning rate of full fine-tuning. The
precision is TF32: the published speed lies above the FP32 peak of the device.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuwork.registry import BACKBONES, STRATEGIES
from gpuwork.spec import Cell, Recipe

EXPECTED = {"train": 4_570_418, "validation": 507_824, "test": 103_638}
"""Fragments per split as published; `jobs.plan` predicts from them until the corpus is there."""

_BACKBONES = ("nt_v2_50m", "nt_v2_100m", "nt_v2_250m", "dnabert2", "dnabert_s")


def cells() -> Iterator[Cell]:
    """The 28 published cells on the whole corpus; the five on 3 % of it are unusable."""
    for backbone in _BACKBONES:
        for strategy in ("full", "random_init", "frozen75", "ia3"):
            yield _cell(backbone, strategy)
        yield _cell(backbone, "lora", rank=1)
    for rank, learning_rate in ((4, 2e-4), (4, 5e-4), (20, 5e-4)):
        yield _cell("nt_v2_50m", "lora", rank=rank, learning_rate=learning_rate)


def _cell(
    backbone: str, strategy: str, *, rank: int | None = None, learning_rate: float | None = None
) -> Cell:
    row = BACKBONES[backbone]
    return Cell(
        task="taxonomy",
        corpus="taxonomy",
        backbone=backbone,
        strategy=strategy,
        rank=rank,
        heads="frozen" if STRATEGIES[strategy].is_adapter else "trained",
        seed=42,
        recipe=Recipe(
            learning_rate=learning_rate or row.published_learning_rate,
            effective_batch=row.published_batch,
            epochs=5,
            patience=3,
            precision="tf32",
            alpha_rule=None if rank is None else "constant_32",
            adapter_dropout=None if rank is None else 0.1,
        ),
    )
