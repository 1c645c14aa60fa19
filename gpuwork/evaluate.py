"""Validation figures and test predictions, streamed: logits never pile up.

Axes: B sequences, L levels, C classes, K stored classes per prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gpuwork.data import Batch, Dataset, Ints, collate
from gpuwork.metrics import balanced_accuracy
from gpuwork.model import Classifier, summed_cross_entropy
from gpuwork.registry import BACKBONES
from gpuwork.spec import Cell, Execution

TOP_CLASSES = 5


class Stopped(Exception):
    """A pass over the data was left because a stop was asked for."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one level's head says of every test row; any metric can be worked out from it later.

    Attributes
    ----------
    top_class, top_log_probability
        (rows, K) most probable first.
    true_class, true_log_probability, true_rank
        (rows,); rank 0 is the most probable class.
    """

    true_class: npt.NDArray[np.int32]
    top_class: npt.NDArray[np.int32]
    top_log_probability: npt.NDArray[np.float32]
    true_log_probability: npt.NDArray[np.float32]
    true_rank: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss per sequence in nats, and balanced accuracy per level."""

    loss: float
    balanced_accuracy: dict[str, float]


def batches(dataset: Dataset, rows: Ints, *, cell: Cell, size: int) -> Iterator[Batch]:
    """Cut rows, in their order, into padded batches of `size`."""
    pad_id = BACKBONES[cell.backbone].pad_id
    for start in range(0, len(rows), size):
        chosen = rows[start : start + size]
        yield collate(dataset, chosen, max_tokens=cell.recipe.max_tokens, pad_id=pad_id)


@torch.no_grad()
def evaluate(
    model: Classifier,
    dataset: Dataset,
    rows: Ints,
    *,
    cell: Cell,
    execution: Execution,
    should_stop: Callable[[], bool],
) -> Evaluation:
    """Loss and balanced accuracy on some rows.

    Raises
    ------
    Stopped
        `should_stop` said so between two batches.
    """
    loss = torch.zeros((), dtype=torch.float64, device=execution.device)
    predicted: list[Tensor] = []
    given = batches(dataset, rows, cell=cell, size=execution.micro_batch)
    for batch, logits in _answers(model, given, cell, execution, should_stop):
        loss += summed_cross_entropy(logits, batch.labels.to(execution.device)).double()
        predicted.append(torch.stack([level.argmax(dim=1) for level in logits], dim=1))
    best = torch.cat(predicted).cpu().numpy()
    true = dataset.labels[rows]
    scores = {
        level: balanced_accuracy(true[:, index], best[:, index])
        for index, level in enumerate(cell.levels)
    }
    return Evaluation(loss=float(loss) / len(rows), balanced_accuracy=scores)


@torch.no_grad()
def predict(
    model: Classifier,
    dataset: Dataset,
    rows: Ints,
    *,
    cell: Cell,
    execution: Execution,
    should_stop: Callable[[], bool],
) -> dict[str, Predictions]:
    """Predictions of every level for some rows, in their order.

    Raises
    ------
    Stopped
        `should_stop` said so between two batches.
    """
    parts: dict[str, list[Predictions]] = {level: [] for level in cell.levels}
    given = batches(dataset, rows, cell=cell, size=execution.micro_batch)
    for batch, logits in _answers(model, given, cell, execution, should_stop):
        for index, level in enumerate(cell.levels):
            parts[level].append(_predictions(logits[index], batch.labels[:, index]))
    return {level: _concatenate(pieces) for level, pieces in parts.items()}


def forward(model: Classifier, batch: Batch, *, cell: Cell, execution: Execution) -> list[Tensor]:
    """Logits of a batch in the cell's precision."""
    ids = batch.input_ids.to(execution.device, non_blocking=True)
    mask = batch.attention_mask
    mask = None if mask is None else mask.to(execution.device, non_blocking=True)
    with torch.autocast(
        execution.device, dtype=torch.bfloat16, enabled=cell.recipe.precision == "bf16"
    ):
        logits: list[Tensor] = model(ids, mask)
    return logits


def _answers(
    model: Classifier,
    given: Iterable[Batch],
    cell: Cell,
    execution: Execution,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Each batch with its logits, until a stop is asked for."""
    model.eval()
    for batch in given:
        if should_stop():
            raise Stopped
        yield batch, forward(model, batch, cell=cell, execution=execution)


def _predictions(logits: Tensor, labels: Tensor) -> Predictions:
    log_probability = logits.float().log_softmax(dim=1)
    true = labels.to(logits.device)
    true_value = log_probability.gather(1, true[:, None])
    top_value, top_class = log_probability.topk(min(TOP_CLASSES, logits.shape[1]), dim=1)
    return Predictions(
        true_class=labels.numpy().astype(np.int32),
        top_class=top_class.cpu().numpy().astype(np.int32),
        top_log_probability=top_value.cpu().numpy(),
        true_log_probability=true_value[:, 0].cpu().numpy(),
        true_rank=(log_probability > true_value).sum(dim=1).cpu().numpy().astype(np.int32),
    )


def _concatenate(pieces: list[Predictions]) -> Predictions:
    return Predictions(
        *(
            np.concatenate([getattr(piece, name) for piece in pieces])
            for name in Predictions.__slots__
        )
    )
