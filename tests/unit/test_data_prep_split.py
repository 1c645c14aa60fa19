from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.errors import InputError
from data_prep.split import stratified

PUBLISHED = {"test_share": 0.02, "validation_share": 0.10, "seed": 42}


def classes(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def names(n: int) -> list[str]:
    return [f"g{i}" for i in range(n)]


def test_the_published_shares_of_a_round_number():
    split = stratified(classes(500, 500), names=names(2), **PUBLISHED)
    assert split.dtype == np.uint8
    assert np.bincount(split).tolist() == [882, 98, 20]
    for members in (split[:500], split[500:]):
        assert np.bincount(members).tolist() == [441, 49, 10]


def test_the_seed_decides():
    found = [
        stratified(classes(300, 200), names=names(2), **{**PUBLISHED, "seed": seed}).tolist()
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.sampled_from([(0.02, 0.1, 50), (0.2, 0.1, 14), (0.1, 0.1, 13), (0.5, 0.5, 6)]),
    st.integers(0, 9),
)
def test_the_advised_size_is_enough_for_every_split(extra, shares, seed):
    test_share, validation_share, advised = shares
    members = classes(*(advised + more for more in extra))
    split = stratified(
        members,
        names=names(len(extra)),
        test_share=test_share,
        validation_share=validation_share,
        seed=seed,
    )
    for value in range(3):
        assert np.bincount(members[split == value], minlength=len(extra)).min() >= 1
    assert np.count_nonzero(split == 2) == int(np.ceil(test_share * len(members)))


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ((900, 2), ["1 of 2 classes too small", "g1 (2)"]),
        ((900, 10), ["1 of 2 classes too small", "g1 (10)"]),
        ((30, 40, 20), ["3 of 3 classes", "g2 (20), g0 (30), g1 (40)"]),
        ((1,) * 12 + (900,), ["12 of 13", "g0 (1)", "and 2 more"]),
    ],
)
def test_classes_too_small_are_named_with_the_ways_out(sizes, parts):
    with pytest.raises(InputError) as refused:
        stratified(classes(*sizes), names=names(len(sizes)), **PUBLISHED)
    ways_out = ["--drop-classes-below 50", "more data or larger shares", "train, validation, test"]
    for part in [*parts, *ways_out]:
        assert part in str(refused.value)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
@pytest.mark.parametrize("which", ["test_share", "validation_share"])
def test_a_share_outside_0_and_1_is_refused(which, share):
    option = which.replace("_", "-")
    with pytest.raises(InputError, match=f"--{option} {share}: must lie between 0 and 1"):
        stratified(classes(500), names=names(1), **{**PUBLISHED, which: share})
