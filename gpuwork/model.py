"""A backbone with one linear head per label level, and their loss.

Axes: B sequences, T tokens, H width, C classes of a level, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(nn.Module):
    """Backbone, masked mean pooling, and one linear head per level.

    Parameters
    ----------
    backbone
        Maps token ids (B, T) and an attention mask (B, T) or None to hidden states (B, T, H).
    width
        H.
    classes
        Number of classes of each level, coarse to fine.
    """

    def __init__(self, backbone: nn.Module, *, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({level: nn.Linear(width, n) for level, n in classes.items()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> list[Tensor]:
        """Logits (B, C) of each level, coarse to fine, in float32 at least."""
        hidden = self.backbone(input_ids, attention_mask)
        with torch.autocast(hidden.device.type, enabled=False):
            pooled = masked_mean(hidden.to(self.head_dtype), attention_mask)
            return [head(pooled) for head in self.heads.values()]

    @property
    def head_dtype(self) -> torch.dtype:
        """Heads keep full precision whatever the backbone computes in."""
        return next(self.heads.parameters()).dtype


def masked_mean(hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean of the hidden states (B, T, H) over the real tokens of each row: (B, H).

    A mask of None means that every token is real.
    """
    if attention_mask is None:
        return hidden.mean(dim=1)
    weight = attention_mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(dim=1) / weight.sum(dim=1)


def summed_cross_entropy(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy added up over rows and levels: a scalar, in nats.

    Parameters
    ----------
    labels
        (B, L) class indices. Divide by the number of rows of the effective batch, so that the
        gradient does not depend on how that batch is cut into micro-batches.
    """
    losses = [
        F.cross_entropy(level, labels[:, index], reduction="sum")
        for index, level in enumerate(logits)
    ]
    return torch.stack(losses).sum()
