"""The stratified split into train, validation and test."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from data_prep.errors import InputError
from gpuwork.layouts import SPLITS

_TRAIN, _VALIDATION, _TEST = range(len(SPLITS))
_LISTED = 10
"""Classes that an error names before it counts the others."""


def stratified(
    classes: npt.NDArray[np.int32],
    *,
    names: Sequence[str],
    test_share: float,
    validation_share: float,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """Assign every fragment to a split, each class in proportion.

    Parameters
    ----------
    classes
        Class of each fragment, an index into `names`; every class occurs.
    test_share
        Share of all fragments that is test.
    validation_share
        Share of the others that is validation.

    Returns
    -------
    uint8 of shape (n_fragments,)
        Indices into ``gpuwork.layouts.SPLITS``; the same for the same arguments.

    Raises
    ------
    InputError
        A share is not between 0 and 1, or a class is too small to be in all three splits.
    """
    for option, share in (("test", test_share), ("validation", validation_share)):
        if not 0 < share < 1:
            raise InputError(f"--{option}-share {share}: must lie between 0 and 1, both excluded")
    enough = _enough(test_share=test_share, validation_share=validation_share)
    count = np.bincount(classes, minlength=len(names))
    n_test = math.ceil(test_share * len(classes))
    n_validation = math.ceil(validation_share * (len(classes) - n_test))
    n_train = len(classes) - n_test - n_validation
    if min(n_test, n_validation, n_train) < len(names):
        raise _too_small(count < enough, count=count, names=names, enough=enough)

    split = np.full(len(classes), _TRAIN, dtype=np.uint8)
    for value, size in ((_TEST, n_test), (_VALIDATION, n_validation)):
        rest = np.flatnonzero(split == _TRAIN)
        left = np.bincount(classes[rest], minlength=len(names))
        if left.min() < 2:  # sklearn's limit: one member to go, one to stay
            raise _too_small(left < 2, count=count, names=names, enough=enough)
        _, chosen = train_test_split(
            rest, test_size=size, stratify=classes[rest], random_state=seed
        )
        split[chosen] = value
    is_absent = np.zeros(len(names), dtype=bool)
    for value in range(len(SPLITS)):
        is_absent |= np.bincount(classes[split == value], minlength=len(names)) == 0
    if is_absent.any():
        raise _too_small(is_absent, count=count, names=names, enough=enough)
    return split


def _enough(*, test_share: float, validation_share: float) -> int:
    """Members with which a class is in all splits however the remainders of others fall."""
    after_test = math.ceil(1 / min(validation_share, 1 - validation_share))
    return max(math.ceil(1 / test_share), math.ceil((after_test + 1) / (1 - test_share)))


def _too_small(
    which: npt.NDArray[np.bool_], *, count: npt.NDArray[np.int64], names: Sequence[str], enough: int
) -> InputError:
    found = sorted((int(count[i]), names[i]) for i in np.flatnonzero(which).tolist())
    listed = ", ".join(f"{name} ({n})" for n, name in found[:_LISTED])
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return InputError(
        f"{len(found)} of {len(names)} classes too small to be in {', '.join(SPLITS)} "
        f"(fragments): {listed}{more}; leave such classes out with --drop-classes-below {enough}, "
        "or give more data or larger shares"
    )
