from __future__ import annotations

import json

import h5py
import numpy as np
import torch

from gpuwork import schema
from gpuwork.audit import Audit
from gpuwork.checkpoint import History, State
from gpuwork.data import open_dataset
from gpuwork.evaluate import Predictions
from gpuwork.memory import probe
from gpuwork.model import Classifier
from gpuwork.result_file import Finished, write_result
from gpuwork.spec import cell_from_json, cell_id
from gpuwork.train import Training, make_optimizer
from gpuwork.workspace import Workspace
from tests import tiny


def predictions(rows):
    return Predictions(
        true_class=np.zeros(rows, np.int32),
        top_class=np.zeros((rows, 2), np.int32),
        top_log_probability=np.zeros((rows, 2), np.float32),
        true_log_probability=np.zeros(rows, np.float32),
        true_rank=np.zeros(rows, np.int32),
    )


def epoch(number, loss, ended_s):
    row = {"epoch": number, "train_loss": 2.0, "validation_loss": loss, "peak_bytes": 100 + number}
    row["peak_reserved_bytes"] = 200 + number
    row |= dict.fromkeys(("train_s", "validation_s", "sequences_per_s", "tokens_per_s"), 1.0)
    row |= {f"balanced_accuracy/{level}": 0.5 for level in tiny.CLASSES}
    return {**row, "ended_s": ended_s}


def test_what_training_left_is_in_the_file(tmp_path):
    workspace = Workspace(tmp_path)
    tiny.write_corpus(workspace)
    dataset = open_dataset(workspace, corpus="tiny", tokenizer="nt_v2", levels=tuple(tiny.CLASSES))
    cell = tiny.make_cell("head_only")
    model = Classifier(torch.nn.Identity(), width=2, classes=tiny.CLASSES)
    training = Training(model, make_optimizer(model, cell.recipe), dataset, cell, tiny.CPU)
    with probe("cpu") as watching:
        samples = watching.samples()
    constant = {name: np.full(5, 40.0) for name in samples}
    constant["time_s"] = np.array([0.0, 2.0, 4.0, 6.0, 8.0])
    attempt = {"number": 0, "node": "n", "started_utc": schema.now_utc(), "first_step": 0}
    attempt |= {"micro_batch": 8, "accumulation": 2, "ranks": 1, "code_sha256": "a"}
    state = State(
        loss=torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64),
        step=2,
        epochs=[epoch(0, 1.5, 4.0), epoch(1, 1.0, 8.0)],
    )
    done = Finished(
        state,
        History((attempt,), 9.0, constant),
        Audit(("heads.genus.bias",), 4, 27),
        {"code_sha256": "a"},
        {level: predictions(len(dataset.rows["test"])) for level in tiny.CLASSES},
    )
    path = workspace.result("s", cell_id(cell))
    write_result(path, training, done)
    schema.check(path, "result")
    with h5py.File(path) as file:
        config = json.loads(file["config"].asstr()[0])
        assert cell_from_json(json.dumps(config["cell"])) == cell
        assert file["steps/loss"][:].tolist() == [3.0, 1.0]
        assert file["steps/learning_rate"][0] == cell.recipe.learning_rate
        assert file["epochs/energy_j"][:].tolist() == [160.0, 160.0]
        assert (file.attrs["best_epoch"], file.attrs["peak_bytes"], file.attrs["run_s"]) == (
            1,
            101,
            9,
        )
        assert (file.attrs["trainable_parameters"], file.attrs["total_parameters"]) == (4, 27)
        assert file["test/row"][:].tolist() == dataset.rows["test"].tolist()
