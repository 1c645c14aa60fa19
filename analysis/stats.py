"""Balanced accuracy per cell and level, with bootstrap intervals over the test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.load import Study, predictions
from gpuwork.metrics import class_counts, resampled_balanced_accuracy

RESAMPLES = 1_000
CONFIDENCE = 0.95
_SEED = 0


@dataclass(frozen=True, slots=True)
class Score:
    """Balanced accuracy on the test set and the interval that other test sets would give.

    Attributes
    ----------
    low, high
        Percentiles of the metric over `RESAMPLES` test sets, drawn row by row with replacement.
        They hold the trained model fixed: no spread over seeds is in them.
    chance
        What a guess that ignores the sequence scores: 1 / classes present.
    """

    value: float
    low: float
    high: float
    chance: float


def scores(study: Study) -> dict[tuple[str, str], Score]:
    """The score of every cell at every level, by (cell id, level).

    Every cell is resampled from the same seed, so an interval depends on that cell's predictions
    alone.
    """
    return {
        (cell.cell_id, level): score(*class_counts(true, predicted))
        for cell, level, true, predicted in predictions(study)
    }


def score(rows: np.ndarray, correct: np.ndarray) -> Score:
    """Score from the rows and correct rows of each class that is present."""
    resampled = resampled_balanced_accuracy(rows, correct, resamples=RESAMPLES, seed=_SEED)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, (tail, 1 - tail))
    return Score(float(np.mean(correct / rows)), float(low), float(high), 1 / len(rows))
