"""How a fresh classifier is made ready to train: one function per row of registry.STRATEGIES."""

from __future__ import annotations

from collections.abc import Callable

from gpuwork.model import Classifier
from gpuwork.spec import Cell
from gpuwork.strategies.backbone_weights import frozen75, full, head_only, random_init
from gpuwork.strategies.peft_adapters import ia3, lora

APPLY: dict[str, Callable[[Classifier, Cell], None]] = {
    "full": full,
    "random_init": random_init,
    "frozen75": frozen75,
    "head_only": head_only,
    "lora": lora,
    "ia3": ia3,
}
"""Each changes the classifier in place: its weights, its modules, what requires a gradient."""
