import numpy as np
import pytest

from analysis import merge
from analysis.load import load
from analysis.stats import score, scores
from tests.unit.analysis_cases import Outcome, make_cell, write_result


def test_an_interval_of_two_classes_is_that_of_the_binomial():
    found = score(np.array([400, 400]), np.array([320, 240]))
    assert found.value == pytest.approx(0.7)
    assert found.chance == 0.5
    # Standard error of a mean of two independent shares, each of about 400 rows.
    error = np.sqrt(0.8 * 0.2 / 400 + 0.6 * 0.4 / 400) / 2
    assert found.low == pytest.approx(0.7 - 1.96 * error, abs=0.004)
    assert found.high == pytest.approx(0.7 + 1.96 * error, abs=0.004)


def test_scores_of_perfect_and_hopeless_cells(site, workspace):
    levels = ("superkingdom", "phylum", "genus")
    good, bad = make_cell("full"), make_cell("head_only")
    write_result(workspace, good, Outcome(accuracy=dict.fromkeys(levels, 1.0)))
    write_result(workspace, bad, Outcome(accuracy=dict.fromkeys(levels, 0.0)))
    assert merge.main(["demo", "--site", str(site)]) == 0
    study = load(workspace.merged("demo"))
    measured = scores(study)
    for cell, value in zip(study.cells, (1.0, 0.0), strict=True):
        for level, n_classes in zip(levels, (4, 8, 24), strict=True):
            found = measured[cell.cell_id, level]
            assert (found.value, found.low, found.high) == (value, value, value)
            assert found.chance == 1 / n_classes


def test_the_same_predictions_have_the_same_interval():
    rows, correct = np.array([10, 5, 1]), np.array([9, 2, 0])
    assert score(rows, correct) == score(rows, correct)
