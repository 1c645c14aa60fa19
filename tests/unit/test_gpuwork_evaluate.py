from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpuwork.data import open_dataset
from gpuwork.evaluate import Stopped, batches, evaluate, predict
from gpuwork.model import Classifier
from gpuwork.spec import Execution
from gpuwork.workspace import Workspace
from tests import tiny
from tests.lookup import Lookup

CELL = tiny.make_cell()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("evaluate"))
    tiny.write_corpus(place)
    return open_dataset(place, corpus="tiny", tokenizer="nt_v2", levels=tuple(tiny.CLASSES))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(Lookup(), width=8, classes=tiny.CLASSES)


def never():
    return False


def test_batches_keep_the_order_of_the_rows(dataset):
    rows = dataset.rows["train"][[5, 3, 1]]
    found = [batch.labels.tolist() for batch in batches(dataset, rows, cell=CELL, size=2)]
    assert found == [dataset.labels[rows[:2]].tolist(), dataset.labels[rows[2:]].tolist()]


def test_predictions_agree_with_each_other(dataset, model):
    rows = dataset.rows["test"]
    found = predict(model, dataset, rows, cell=CELL, execution=tiny.CPU, should_stop=never)
    genus = found["genus"]
    assert genus.true_class.tolist() == dataset.labels[rows, 2].tolist()
    assert genus.top_class.shape == (16, 4)
    place = (genus.top_class == genus.true_class[:, None]).argmax(axis=1)
    assert place.tolist() == genus.true_rank.tolist()
    values = genus.top_log_probability[range(16), place]
    assert values.tolist() == genus.true_log_probability.tolist()
    assert all(abs(1 - sum(math.exp(v) for v in row)) < 1e-5 for row in genus.top_log_probability)


def test_the_loss_is_the_mean_of_what_predictions_say(dataset, model):
    rows = dataset.rows["test"]
    measured = {"cell": CELL, "execution": tiny.CPU, "should_stop": never}
    found = predict(model, dataset, rows, **measured)
    expected = -sum(level.true_log_probability.mean() for level in found.values())
    assert math.isclose(evaluate(model, dataset, rows, **measured).loss, expected, rel_tol=1e-5)


def test_a_sequence_alone_scores_as_in_a_batch(dataset, model):
    rows = dataset.rows["test"]
    alone = Execution(device="cpu", micro_batch=1)
    one, many = (
        predict(model, dataset, rows, cell=CELL, execution=execution, should_stop=never)["phylum"]
        for execution in (alone, tiny.CPU)
    )
    np.testing.assert_allclose(one.true_log_probability, many.true_log_probability, atol=1e-6)


@pytest.mark.parametrize("function", [evaluate, predict])
def test_a_stop_leaves_between_two_batches(dataset, model, function):
    asked = iter([False, True])
    with pytest.raises(Stopped):
        function(
            model,
            dataset,
            dataset.rows["test"],
            cell=CELL,
            execution=tiny.CPU,
            should_stop=lambda: next(asked),
        )
