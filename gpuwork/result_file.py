"""The result file of a cell, written from what training left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from gpuwork import memory, schema
from gpuwork.audit import Audit
from gpuwork.checkpoint import History, State
from gpuwork.evaluate import Predictions
from gpuwork.spec import cell_id
from gpuwork.train import Training, best_epoch


@dataclass(frozen=True, slots=True)
class Finished:
    """What a cell that is done leaves behind.

    Attributes
    ----------
    state
        All epochs done, the best one's weights among it.
    facts
        Provenance, all of it text.
    predictions
        Of every level, for the test rows in their order, by the best epoch's weights.
    """

    state: State
    history: History
    found: Audit
    facts: Mapping[str, str]
    predictions: Mapping[str, Predictions]


def write_result(path: Path, training: Training, done: Finished) -> None:
    """Write a finished cell in the ``result`` layout; the file appears only complete."""
    config = {"cell": asdict(training.cell), "execution": asdict(training.execution)}
    with schema.write(path, "result", in_memory=True) as file:
        file.attrs["cell_id"] = cell_id(training.cell)
        file.attrs["levels"] = training.cell.levels
        file.attrs["finished_utc"] = schema.now_utc()
        file.attrs["best_epoch"] = best_epoch(done.state.epochs)
        file.attrs["total_parameters"] = done.found.total_parameters
        file.attrs["trainable_parameters"] = done.found.trainable_parameters
        file.attrs["peak_bytes"] = max(int(row["peak_bytes"]) for row in done.state.epochs)
        file.attrs["memory_kind"] = memory.memory_kind(training.execution.device)
        file.attrs["run_s"] = done.history.run_s
        file.create_group("provenance").attrs.update(done.facts)
        _put(file, "config", [json.dumps(config, sort_keys=True)])
        _write_history(file, done.history)
        _write_curves(file, training, done.state, done.history)
        _write_test(file, training, done.predictions)


def _put(file: h5py.File, name: str, values: npt.ArrayLike) -> None:
    schema.put(file, name, values, layout="result")


def _write_history(file: h5py.File, history: History) -> None:
    """Attempts and device samples."""
    for name in history.attempts[0]:
        _put(file, f"attempts/{name}", [row[name] for row in history.attempts])
    for name, values in history.samples.items():
        _put(file, f"gpu/{name}", values)


def _write_curves(file: h5py.File, training: Training, state: State, history: History) -> None:
    """Epochs and steps."""
    ends = [row["ended_s"] for row in state.epochs]
    time_s = history.samples["time_s"]
    first_s = float(time_s[0]) if len(time_s) else 0.0
    energy = [
        memory.energy_j(history.samples, start_s=start, end_s=end)
        for start, end in zip([first_s, *ends], ends, strict=False)
    ]
    columns = {name: [row[name] for row in state.epochs] for name in state.epochs[0]}
    del columns["ended_s"]
    for name, values in {**columns, "energy_j": energy}.items():
        _put(file, f"epochs/{name}", values)
    steps = np.arange(state.step)
    _put(file, "steps/step", steps)
    _put(file, "steps/loss", state.loss[: state.step].cpu().numpy())
    _put(file, "steps/learning_rate", [training.learning_rate(int(step)) for step in steps])


def _write_test(
    file: h5py.File, training: Training, predictions: Mapping[str, Predictions]
) -> None:
    dataset = training.dataset
    _put(file, "test/row", dataset.rows["test"])
    for level, found in predictions.items():
        _put(file, f"class/{level}", dataset.classes[level])
        for name, values in asdict(found).items():
            _put(file, f"test/{level}/{name}", values)
