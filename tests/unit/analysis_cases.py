"""Result files as a study leaves them, with accuracies chosen by the test."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gpuwork import schema
from gpuwork.spec import Cell, Execution, Recipe, cell_id, cell_to_json
from gpuwork.workspace import Workspace

CLASSES = {
    "superkingdom": [f"superkingdom {index}" for index in range(4)],
    "phylum": [f"phylum {index}" for index in range(8)],
    "genus": [f"genus {index}" for index in range(24)],
}
FACTS = {"code_sha256": "c0de" * 16, "corpus_sha256": "da7a" * 16, "torch_version": "2.13.0"}


def make_cell(strategy="full", *, rank=None, heads="trained", seed=0, learning_rate=1e-3) -> Cell:
    has_rank = strategy == "lora"
    return Cell(
        task="taxonomy",
        corpus="demo",
        corpus_sha256=FACTS["corpus_sha256"],
        backbone="nt_v2_nano",
        strategy=strategy,
        rank=(rank or 4) if has_rank else None,
        heads=heads,
        seed=seed,
        recipe=Recipe(
            learning_rate=learning_rate,
            effective_batch=32,
            epochs=4,
            patience=3,
            alpha_rule="twice_rank" if has_rank else None,
            adapter_dropout=0.0 if has_rank else None,
        ),
    )


@dataclass
class Outcome:
    """How a fake cell went.

    Attributes
    ----------
    accuracy
        Chance that a test row is predicted right, by level; a wrong one is the next class.
    """

    accuracy: dict[str, float] = field(
        default_factory=lambda: {"superkingdom": 0.9, "phylum": 0.8, "genus": 0.6}
    )
    facts: dict[str, str] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=lambda: CLASSES)
    n_rows: int = 240
    n_epochs: int = 4
    epoch_s: float = 10.0
    peak_bytes: int = 300 << 20
    trainable: int = 443_628
    train_loss: list[float] | None = None


def write_result(
    workspace: Workspace, cell: Cell, outcome: Outcome | None = None, *, study="demo", name=None
) -> Path:
    """Write the result file of one cell, under another name if one is given."""
    outcome = outcome or Outcome()
    path = workspace.result(study, name or cell_id(cell))
    rng = np.random.default_rng(cell.seed)
    epochs = np.arange(outcome.n_epochs)
    with schema.write(path, "result", in_memory=True) as file:
        file.attrs["cell_id"] = cell_id(cell)
        file.attrs["levels"] = tuple(outcome.classes)
        file.attrs["finished_utc"] = f"2026-01-01T{cell.seed % 24:02}:00:00+00:00"
        file.attrs["best_epoch"] = outcome.n_epochs - 1
        file.attrs["total_parameters"] = 445_896
        file.attrs["trainable_parameters"] = outcome.trainable
        file.attrs["peak_bytes"] = outcome.peak_bytes
        file.attrs["memory_kind"] = "process"
        file.attrs["run_s"] = outcome.n_epochs * outcome.epoch_s * 1.2
        file.create_group("provenance").attrs.update({**FACTS, **outcome.facts})
        execution = Execution(device="cpu", micro_batch=8)
        config = {"cell": asdict(cell), "execution": asdict(execution)}
        columns = {
            "config": [json.dumps(config, sort_keys=True)],
            **_history(),
            **_epochs(epochs, outcome, rng),
            "test/row": np.arange(outcome.n_rows),
        }
        for level, classes in outcome.classes.items():
            columns |= _test(level, classes, outcome, rng)
        for column, values in columns.items():
            schema.put(file, column, values, layout="result")
    return path


def write_cells(workspace: Workspace, cells, *, study="demo") -> Path:
    """Write the grid as the launcher does."""
    path = workspace.run(study) / "cells.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([cell_to_json(cell) for cell in cells]))
    return path


def _history():
    return {
        "attempts/number": [0],
        "attempts/node": ["node1"],
        "attempts/started_utc": ["2026-01-01T00:00:00+00:00"],
        "attempts/first_step": [0],
        "attempts/micro_batch": [8],
        "attempts/accumulation": [4],
        "attempts/ranks": [1],
        "attempts/code_sha256": ["c" * 64],
        "steps/step": np.arange(80),
        "steps/loss": np.linspace(6, 2, 80),
        "steps/learning_rate": np.linspace(1e-3, 0, 80),
        **{f"gpu/{name}": [0] for name in ("time_s", "memory_bytes", "power_w", "utilization")},
        **{f"gpu/{name}": [0] for name in ("clock_hz", "other_tenants")},
    }


def _epochs(epochs, outcome: Outcome, rng):
    floor = 6.6 * (1 - float(np.mean(list(outcome.accuracy.values()))))
    train = floor + (6.6 - floor) * np.exp(-0.9 * (epochs + 0.6))
    validation = train + 0.12 + 0.02 * epochs
    growing = 1 - np.exp(-1.5 * (epochs + 1))
    return {
        "epochs/epoch": epochs,
        "epochs/train_loss": train if outcome.train_loss is None else outcome.train_loss,
        "epochs/validation_loss": validation,
        "epochs/train_s": outcome.epoch_s * rng.uniform(0.95, 1.08, len(epochs)),
        "epochs/validation_s": 0.1 * outcome.epoch_s * np.ones(len(epochs)),
        "epochs/sequences_per_s": 2000 / outcome.epoch_s * np.ones(len(epochs)),
        "epochs/tokens_per_s": 5e5 / outcome.epoch_s * np.ones(len(epochs)),
        "epochs/peak_bytes": np.full(len(epochs), outcome.peak_bytes),
        "epochs/peak_reserved_bytes": np.full(len(epochs), outcome.peak_bytes),
        "epochs/energy_j": np.full(len(epochs), np.nan),
        **{
            f"epochs/balanced_accuracy/{level}": outcome.accuracy[level] * growing
            for level in outcome.classes
        },
    }


def _test(level, classes, outcome: Outcome, rng):
    true = np.arange(outcome.n_rows) % len(classes)
    right = rng.random(outcome.n_rows) < outcome.accuracy[level]
    stored = min(5, len(classes))
    best = np.where(right, true, (true + 1) % len(classes))
    top = (best[:, None] + np.arange(stored)) % len(classes)
    log_probability = np.log(np.linspace(0.6, 0.02, stored))
    return {
        f"class/{level}": classes,
        f"test/{level}/true_class": true,
        f"test/{level}/top_class": top,
        f"test/{level}/top_log_probability": np.tile(log_probability, (outcome.n_rows, 1)),
        f"test/{level}/true_log_probability": np.where(right, -0.5, -3.0),
        f"test/{level}/true_rank": np.where(right, 0, 1),
    }
