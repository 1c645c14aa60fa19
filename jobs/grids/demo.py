"""The demo: every strategy on a nano backbone and a synthetic corpus, minutes on a laptop.

Both heads settings are there for the adapters, so the effect of frozen heads can be seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuwork.spec import Cell, Recipe

_LEARNING_RATE = {
    "full": 2e-3,
    "random_init": 2e-3,
    "frozen75": 2e-3,
    "head_only": 5e-2,
    "ia3": 2e-2,
    "lora": 1e-2,
}
"""Larger where less trains; found by trial on the demo corpus."""


def cells() -> Iterator[Cell]:
    """12 cells: four strategies without an adapter, then (IA)3 and three ranks of LoRA twice."""
    for strategy in ("full", "random_init", "frozen75", "head_only"):
        yield _cell(strategy, heads="trained")
    for heads in ("trained", "frozen"):
        yield _cell("ia3", heads=heads)
        for rank in (1, 4, 16):
            yield _cell("lora", heads=heads, rank=rank)


def _cell(strategy: str, *, heads: str, rank: int | None = None) -> Cell:
    return Cell(
        task="taxonomy",
        corpus="demo",
        backbone="nt_v2_nano",
        strategy=strategy,
        rank=rank,
        heads=heads,
        seed=0,
        recipe=Recipe(
            learning_rate=_LEARNING_RATE[strategy],
            effective_batch=16,
            epochs=3,
            patience=3,
            precision="fp32",
            alpha_rule=None if rank is None else "twice_rank",
            adapter_dropout=None if rank is None else 0.0,
        ),
    )
