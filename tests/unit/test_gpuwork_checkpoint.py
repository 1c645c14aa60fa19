from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gpuwork import checkpoint
from gpuwork.checkpoint import History, State


def trained_model(value: float) -> nn.Linear:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(value)
    model.bias.requires_grad_(False)
    return model


def step(model, optimizer):
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_model_and_optimizer_go_on_to_the_same_bits(tmp_path):
    model = trained_model(0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    step(model, optimizer)
    state = State(loss=torch.tensor([1.5, 0.0]), step=1, epoch_s=2.0, epoch_tokens=7)
    history = History(({"number": 0, "node": "a"},), 3.0, {"time_s": np.array([0.1])})
    saved = checkpoint.payload(state, history, optimizer, model, frozen="f")
    checkpoint.save(tmp_path, step=1, payload=saved)

    other = trained_model(-9.0)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=0.1)
    other_state = State(loss=torch.zeros(2))
    loaded = checkpoint.load(tmp_path)
    assert loaded["frozen"] == "f"
    found = checkpoint.restore(loaded, other_state, other_optimizer, other)
    step(model, optimizer)
    step(other, other_optimizer)
    assert torch.equal(model.weight, other.weight)
    assert (other_state.step, other_state.epoch_s, other_state.epoch_tokens) == (1, 2.0, 7)
    assert other_state.loss.tolist() == [1.5, 0.0]
    assert (found.attempts, found.run_s) == (history.attempts, 3.0)
    assert found.samples["time_s"].tolist() == [0.1]


def test_the_newest_two_are_kept_and_nothing_half_written_is_left(tmp_path):
    for number in (1, 2, 10):
        checkpoint.save(tmp_path, step=number, payload={"step": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000002.pt",
        "step-0000000010.pt",
    ]
    assert checkpoint.load(tmp_path) == {"step": 10}


def test_a_damaged_file_is_passed_over_for_the_one_before(tmp_path):
    checkpoint.save(tmp_path, step=1, payload={"step": 1, "weights": torch.ones(1000)})
    newest = checkpoint.save(tmp_path, step=2, payload={"step": 2, "weights": torch.ones(1000)})
    newest.write_bytes(newest.read_bytes()[:-500])
    assert checkpoint.load(tmp_path)["step"] == 1


def test_damaged_later_checkpoints_do_not_crowd_out_new_ones(tmp_path):
    for number in (400, 500):
        checkpoint.save(tmp_path, step=number, payload={}).write_bytes(b"damaged")
    assert checkpoint.load(tmp_path) is None
    checkpoint.save(tmp_path, step=100, payload={"step": 100})
    assert checkpoint.load(tmp_path) == {"step": 100}
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000000100.pt"]


def test_none_where_there_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "absent") is None


def test_weights_of_another_model_are_refused():
    with pytest.raises(ValueError, match="checkpoint is of another model"):
        checkpoint.put_back(trained_model(0.0), {"other": torch.zeros(1)})


def test_history_puts_attempts_on_one_clock():
    first = History().extended({"number": 0}, 10.0, {"time_s": np.array([1.0, 2.0])})
    second = first.extended({"number": 1}, 25.0, {"time_s": np.array([0.5])})
    assert second.run_s == 25.0
    assert second.samples["time_s"].tolist() == [1.0, 2.0, 10.5]
    assert [row["number"] for row in second.attempts] == [0, 1]
