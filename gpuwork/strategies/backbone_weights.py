"""Strategies that train the backbone's own weights, or none of them."""

from __future__ import annotations

from gpuwork.backbones.nucleotide_transformer import initialize
from gpuwork.model import Classifier
from gpuwork.spec import Cell

FROZEN_SHARE = 0.75


def full(model: Classifier, cell: Cell) -> None:  # noqa: ARG001 - the signature of the table
    """Train every tensor, those the forward pass never reads included."""
    model.requires_grad_(True)


def random_init(model: Classifier, cell: Cell) -> None:
    """Forget the checkpoint, heads included, then train every tensor.

    The rule of Berman et al. 2025: Linear and Embedding ~ N(0, 0.02), bias 0, LayerNorm 1 and 0.
    """
    initialize(model)
    full(model, cell)


def frozen75(model: Classifier, cell: Cell) -> None:
    """Freeze tensor by tensor until 75 % of all weights are frozen; train the rest.

    The rule of Berman et al. 2025: registration order, embeddings first and heads last; tensors
    that the forward pass never reads count too.
    """
    full(model, cell)
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = 0
    for parameter in model.parameters():
        if frozen >= FROZEN_SHARE * total:
            break
        parameter.requires_grad_(False)
        frozen += parameter.numel()


def head_only(model: Classifier, cell: Cell) -> None:  # noqa: ARG001 - the signature of the table
    """Train the heads on the untouched backbone."""
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
