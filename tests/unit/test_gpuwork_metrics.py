import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from gpuwork import metrics
from gpuwork.metrics import balanced_accuracy, class_counts, resampled_balanced_accuracy


def test_mean_of_recalls_not_share_of_correct_rows():
    true = [0, 0, 0, 0, 3, 3]
    predicted = [0, 0, 0, 1, 3, 0]
    assert balanced_accuracy(true, predicted) == pytest.approx((3 / 4 + 1 / 2) / 2)
    rows, correct = class_counts(true, predicted)
    assert rows.tolist() == [4, 2]
    assert correct.tolist() == [3, 1]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_equals_scikit_learn(pairs):
    true, predicted = np.array(pairs).T
    assert balanced_accuracy(true, predicted) == pytest.approx(
        balanced_accuracy_score(true, predicted)
    )


@pytest.mark.parametrize(("true", "predicted"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_refuses_what_has_no_balanced_accuracy(true, predicted):
    with pytest.raises(ValueError, match="must be one row of the same length"):
        balanced_accuracy(true, predicted)


def test_multinomial_counts_are_distributed_as_resampled_rows():
    rng = np.random.default_rng(7)
    true = np.repeat([0, 1, 2], [30, 12, 2])
    predicted = np.where(rng.random(44) < 0.7, true, (true + 1) % 3)
    drawn = rng.integers(0, 44, size=(20_000, 44))
    by_rows = np.array([balanced_accuracy(true[rows], predicted[rows]) for rows in drawn])
    rows, correct = class_counts(true, predicted)
    by_counts = resampled_balanced_accuracy(rows, correct, resamples=20_000, seed=0)
    assert by_counts.mean() == pytest.approx(by_rows.mean(), abs=0.004)
    quantiles = (0.025, 0.25, 0.5, 0.75, 0.975)
    assert np.quantile(by_counts, quantiles) == pytest.approx(
        np.quantile(by_rows, quantiles), abs=0.01
    )


def test_resamples_are_seeded_and_do_not_depend_on_the_block_size(monkeypatch):
    rows, correct = [10, 5, 1], [9, 2, 0]
    whole = resampled_balanced_accuracy(rows, correct, resamples=50, seed=3)
    monkeypatch.setattr(metrics, "_BLOCK_COUNTS", 20)
    assert resampled_balanced_accuracy(rows, correct, resamples=50, seed=3).tolist() == (
        whole.tolist()
    )
    assert resampled_balanced_accuracy(rows, correct, resamples=50, seed=4).tolist() != (
        whole.tolist()
    )


def test_a_perfect_model_stays_perfect_in_every_resample():
    assert (resampled_balanced_accuracy([40, 3, 1], [40, 3, 1], resamples=100, seed=0) == 1).all()
