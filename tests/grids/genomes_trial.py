"""A user's own grid: real genomes, the smallest backbone, full training against heads and LoRA.

Needs the corpus ``genomes``. Each fragment is cut to its first 64 tokens, which keeps a cell within
a minute on one CPU core.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpuwork.spec import Cell, Recipe


def cells() -> Iterator[Cell]:
    yield _cell("full", learning_rate=1e-3)
    yield _cell("head_only", learning_rate=1e-2)
    for heads in ("trained", "frozen"):
        yield _cell("lora", learning_rate=5e-3, heads=heads, rank=4)


def _cell(
    strategy: str, *, learning_rate: float, heads: str = "trained", rank: int | None = None
) -> Cell:
    return Cell(
        task="taxonomy",
        corpus="genomes",
        backbone="nt_v2_nano",
        strategy=strategy,
        rank=rank,
        heads=heads,
        seed=0,
        recipe=Recipe(
            learning_rate=learning_rate,
            effective_batch=64,
            epochs=2,
            patience=2,
            max_tokens=64,
            alpha_rule=None if rank is None else "twice_rank",
            adapter_dropout=None if rank is None else 0.0,
        ),
    )
