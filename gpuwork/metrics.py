"""Metrics of stored predictions, and how far they would move with another test set. numpy only.

Axes: N rows, C classes, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK_COUNTS = 2_000_000
"""Counts drawn at a time by the bootstrap (16 MB), whatever the number of classes."""


def balanced_accuracy(true_class: npt.ArrayLike, predicted_class: npt.ArrayLike) -> float:
    """Mean recall over the classes that are present in `true_class`.

    Parameters
    ----------
    true_class, predicted_class
        (N,) class indices, 0 or above. A predicted class that is never true counts as an error.

    Raises
    ------
    ValueError
        No rows, or not as many predictions as rows.
    """
    rows, correct = class_counts(true_class, predicted_class)
    return float(np.mean(correct / rows))


def class_counts(
    true_class: npt.ArrayLike, predicted_class: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and correctly predicted rows of every class that is present, each (C,).

    Raises
    ------
    ValueError
        No rows, or not as many predictions as rows.
    """
    true, predicted = np.asarray(true_class), np.asarray(predicted_class)
    if true.ndim != 1 or true.shape != predicted.shape or not true.size:
        raise ValueError(
            f"true classes {true.shape} and predicted classes {predicted.shape}: both must be one "
            "row of the same length, 1 or more"
        )
    rows = np.bincount(true)
    correct = np.bincount(true[true == predicted], minlength=rows.size)
    present = rows > 0
    return rows[present], correct[present]


def resampled_balanced_accuracy(
    rows: npt.ArrayLike, correct: npt.ArrayLike, *, resamples: int, seed: int
) -> Floats:
    """Balanced accuracy of test sets drawn with replacement from the given one, row by row.

    Balanced accuracy depends on the rows only through two counts per class, (right, wrong). N
    independent draws of a row fall into these 2C bins as one multinomial draw with N trials and
    the observed shares as probabilities, so that is drawn instead of rows: the same
    distribution, at a cost that does not grow with N. As in `balanced_accuracy`, classes absent
    from a resample do not count in it.

    Parameters
    ----------
    rows, correct
        (C,) as `class_counts` gives them.

    Returns
    -------
    Floats
        (R,)
    """
    totals, right = np.asarray(rows, dtype=np.int64), np.asarray(correct, dtype=np.int64)
    bins = np.concatenate([right, totals - right])
    drawn = _multinomial(bins, resamples=resamples, rng=np.random.default_rng(seed))
    return np.concatenate([_balanced(block, n_classes=totals.size) for block in drawn])


def _multinomial(bins: Ints, *, resamples: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Counts of resamples, (some of R, 2C) at a time."""
    n_rows = int(bins.sum())
    size = max(1, _BLOCK_COUNTS // bins.size)
    for start in range(0, resamples, size):
        yield rng.multinomial(n_rows, bins / n_rows, size=min(size, resamples - start))


def _balanced(counts: Ints, *, n_classes: int) -> Floats:
    """Balanced accuracy of each row of (R, 2C) counts: right first, then wrong."""
    right = counts[:, :n_classes]
    totals = right + counts[:, n_classes:]
    present = totals > 0
    recall = np.divide(right, totals, out=np.zeros(right.shape), where=present)
    mean: Floats = recall.sum(axis=1) / present.sum(axis=1)
    return mean
