from __future__ import annotations

import math

import pytest
import torch

from gpuwork import checkpoint
from gpuwork.data import open_dataset
from gpuwork.evaluate import evaluate
from gpuwork.model import Classifier
from gpuwork.spec import Execution
from gpuwork.train import (
    Hooks,
    Training,
    best_epoch,
    is_finished,
    learning_rate_at,
    make_optimizer,
    optimizer_step,
    train,
)
from gpuwork.workspace import Workspace
from tests import tiny
from tests.lookup import Lookup


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("train"))
    tiny.write_corpus(place)
    return open_dataset(place, corpus="tiny", tokenizer="nt_v2", levels=tuple(tiny.CLASSES))


def ready(dataset, *, execution=tiny.CPU, **recipe) -> Training:
    cell = tiny.make_cell(**recipe)
    torch.manual_seed(cell.seed)
    model = Classifier(Lookup(), width=8, classes=tiny.CLASSES)
    return Training(model, make_optimizer(model, cell.recipe), dataset, cell, execution)


def hooks(stop=lambda: False, save=lambda: None) -> Hooks:
    return Hooks(should_stop=stop, save=save, on_progress=lambda _: None, clock_s=lambda: 0.0)


def trained(training):
    state = checkpoint.start(training.steps, device="cpu")
    assert train(training, state, hooks())
    return state


def test_learning_rate_by_hand():
    recipe = tiny.make_cell(learning_rate=2.0, warmup_fraction=0.2).recipe
    rates = [learning_rate_at(step, total=10, recipe=recipe) for step in range(10)]
    assert rates[:3] == [1.0, 2.0, 2.0]
    assert math.isclose(rates[6], 1.0)
    assert math.isclose(rates[9], 1.0 + math.cos(math.pi * 7 / 8))


def test_training_ends_after_patience_epochs_without_improvement():
    recipe = tiny.make_cell(epochs=9, patience=2).recipe
    state = checkpoint.start(1, device="cpu")
    finished = []
    for loss in (3.0, 2.0, 2.5, 2.0):
        state.epochs.append({"validation_loss": loss})
        finished.append(is_finished(state, recipe))
    assert finished == [False, False, False, True]
    assert best_epoch(state.epochs) == 1


def test_loss_falls_and_the_best_epoch_is_kept(dataset):
    training = ready(dataset, learning_rate=0.05, epochs=6)
    state = trained(training)
    losses = [row["train_loss"] for row in state.epochs]
    assert losses[-1] < 0.7 * losses[0]
    checkpoint.put_back(training.model, state.best)
    again = evaluate(
        training.model,
        dataset,
        dataset.rows["validation"],
        cell=training.cell,
        execution=tiny.CPU,
        should_stop=lambda: False,
    )
    assert again.loss == state.epochs[best_epoch(state.epochs)]["validation_loss"]


def test_accumulation_gives_the_gradient_of_the_whole_batch(dataset):
    rows = dataset.rows["train"][:16]
    weights = []
    for micro_batch in (16, 8, 2):
        training = ready(dataset, execution=Execution(device="cpu", micro_batch=micro_batch))
        training.model.double()
        state = checkpoint.start(training.steps, device="cpu")
        optimizer_step(training, state, rows)
        weights.append(training.model.heads["genus"].weight.detach().clone())
    assert torch.allclose(weights[0], weights[1], rtol=0, atol=1e-12)
    assert torch.allclose(weights[0], weights[2], rtol=0, atol=1e-12)


def test_every_training_row_is_seen_once_an_epoch(dataset):
    training = ready(dataset, effective_batch=24, epochs=1)
    state = trained(training)
    assert training.steps == 3
    lengths = (dataset.offset[1:] - dataset.offset[:-1])[dataset.rows["train"]]
    rate = state.epochs[0]["tokens_per_s"] / state.epochs[0]["sequences_per_s"]
    assert math.isclose(rate, lengths.mean())


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 11])
def test_a_stop_at_any_step_changes_nothing(dataset, tmp_path, stop_after):
    straight = trained(ready(dataset))
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked == stop_after

    first = ready(dataset)
    state = checkpoint.start(first.steps, device="cpu")

    def save():
        saved = checkpoint.payload(
            state, checkpoint.History(), first.optimizer, first.model, frozen=""
        )
        checkpoint.save(tmp_path, step=state.step, payload=saved)

    assert not train(first, state, hooks(stop, save))
    second = ready(dataset)
    with torch.no_grad():
        second.model.backbone.table.weight.zero_()
    resumed = checkpoint.start(second.steps, device="cpu")
    checkpoint.restore(checkpoint.load(tmp_path), resumed, second.optimizer, second.model)
    assert train(second, resumed, hooks())
    assert torch.equal(resumed.loss, straight.loss)
    assert all(torch.equal(resumed.best[name], straight.best[name]) for name in straight.best)
    timeless = [
        [{k: v for k, v in row.items() if not k.endswith(("_s", "_bytes"))} for row in state.epochs]
        for state in (resumed, straight)
    ]
    assert timeless[0] == timeless[1]


def test_a_loss_that_is_not_finite_ends_the_cell(dataset):
    training = ready(dataset)
    with torch.no_grad():
        training.model.heads["genus"].bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"epoch 1: train loss nan.*lower the learning"):
        trained(training)


def test_the_summed_loss_is_what_is_reported(dataset):
    training = ready(dataset, learning_rate=1e-12, epochs=1)
    state = trained(training)
    found = evaluate(
        training.model,
        dataset,
        dataset.rows["train"],
        cell=training.cell,
        execution=tiny.CPU,
        should_stop=lambda: False,
    )
    assert math.isclose(found.loss, state.epochs[0]["train_loss"], rel_tol=1e-5)
