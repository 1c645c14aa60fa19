"""Strategies that add weights through peft and leave the backbone as it is.

peft is imported where it is used: it brings transformers along, seconds that other cells save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuwork.model import Classifier
from gpuwork.registry import BACKBONES
from gpuwork.spec import Cell

if TYPE_CHECKING:
    from peft import PeftConfig


def lora(model: Classifier, cell: Cell) -> None:
    """Two low-rank factors per target module: W + alpha/r B A (Hu et al. 2021)."""
    from peft import LoraConfig

    config = LoraConfig(
        r=cell.rank,
        lora_alpha=cell.alpha,
        lora_dropout=cell.recipe.adapter_dropout,
        target_modules=BACKBONES[cell.backbone].lora_targets,
        bias="none",
    )
    _inject(config, model, cell)


def ia3(model: Classifier, cell: Cell) -> None:
    """One learned scale vector per target module (Liu et al. 2022)."""
    from peft import IA3Config

    row = BACKBONES[cell.backbone]
    config = IA3Config(target_modules=row.ia3_targets, feedforward_modules=row.ia3_feedforward)
    _inject(config, model, cell)


def _inject(config: PeftConfig, model: Classifier, cell: Cell) -> None:
    """Wrap the target modules in place, freeze all else, and set the heads as the cell says.

    The heads are ours to free: peft's `modules_to_save` matches by name and missed the published
    study's heads without a word.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, model)
    model.heads.requires_grad_(cell.heads == "trained")
