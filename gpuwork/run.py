"""One cell from tokens to result file: the one place where the parts meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gpuwork import audit, checkpoint, memory, provenance, schema
from gpuwork.backbones import load
from gpuwork.checkpoint import History, State
from gpuwork.data import Dataset, open_dataset
from gpuwork.evaluate import Stopped, predict
from gpuwork.model import Classifier
from gpuwork.registry import BACKBONES
from gpuwork.result_file import Finished, write_result
from gpuwork.spec import Cell, Execution, accumulation, cell_id
from gpuwork.strategies import APPLY
from gpuwork.train import Hooks, Report, Training, make_optimizer, note_peaks, train
from gpuwork.workspace import Workspace

_MATMUL = {"fp32": "highest", "tf32": "high", "bf16": "high"}


class RunError(RuntimeError):
    """A cell that cannot be run as asked; says what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A cell about to train.

    Attributes
    ----------
    frozen
        Digest of the tensors that must not change.
    facts
        Provenance known before the first step.
    """

    training: Training
    found: audit.Audit
    frozen: str
    facts: dict[str, str]


def run(  # noqa: PLR0913 - all that a cell depends on, by name
    cell: Cell,
    execution: Execution,
    *,
    workspace: Workspace,
    study: str,
    attempt: int,
    should_stop: Callable[[], bool],
    on_progress: Report,
) -> bool:
    """Train and test one cell; take up an earlier attempt's checkpoint where there is one.

    Parameters
    ----------
    attempt
        Number of this attempt, from 0.
    should_stop
        Asked at every step boundary; True makes the cell save a checkpoint and leave.
    on_progress
        Told the phase, epoch, step, sequences per second and seconds left after every step.

    Returns
    -------
    bool
        True: ``results/<study>/<cell_id>.h5`` exists. False: stopped, with a checkpoint.

    Raises
    ------
    RunError, SchemaError, CheckpointError, AuditError
        The inputs are not those of the cell, or the model is not what its name says.
    """
    began, started_utc = time.monotonic(), schema.now_utc()
    identity = cell_id(cell)
    ready = _make_ready(cell, execution, workspace)
    training, model, dataset = ready.training, ready.training.model, ready.training.dataset
    state = checkpoint.start(training.steps, device=execution.device)
    directory = workspace.checkpoint(study, identity)
    earlier = _resume(directory, state, training, frozen=ready.frozen)
    this_attempt = {
        **_attempt(attempt, started_utc, state.step, cell, execution),
        "code_sha256": ready.facts["code_sha256"],
    }
    with memory.probe(execution.device, began_s=began) as probe:

        def clock_s() -> float:
            return earlier.run_s + time.monotonic() - began

        def history() -> History:
            return earlier.extended(this_attempt, clock_s(), probe.samples())

        def save() -> None:
            note_peaks(state, execution.device)
            saved = checkpoint.payload(
                state, history(), training.optimizer, model, frozen=ready.frozen
            )
            checkpoint.save(directory, step=state.step, payload=saved)

        hooks = Hooks(should_stop, save, on_progress, clock_s)
        if not train(training, state, hooks):
            return False
        checkpoint.put_back(model, state.best)
        rows = dataset.rows["test"]
        try:
            predictions = predict(
                model, dataset, rows, cell=cell, execution=execution, should_stop=should_stop
            )
        except Stopped:
            save()
            return False
        final = history()
    if audit.frozen_digest(model) != ready.frozen:
        raise RunError(f"{identity}: a frozen tensor changed while training; report this as a bug")
    facts = {
        **ready.facts,
        "code_sha256": "+".join(sorted({str(row["code_sha256"]) for row in final.attempts})),
        "trained_sha256": audit.digest(state.best.items()),
        "probe_error": probe.error or "none",
    }
    done = Finished(state, final, ready.found, facts, predictions)
    write_result(workspace.result(study, identity), training, done)
    checkpoint.remove(directory)
    return True


def _make_ready(cell: Cell, execution: Execution, workspace: Workspace) -> Ready:
    """Seed, load, adapt, audit."""
    _prepare(cell, execution)
    dataset = _dataset(cell, workspace)
    model, facts = _model(cell, dataset, workspace)
    plan = audit.blueprint(model)
    APPLY[cell.strategy](model, cell)
    found = audit.inspect(model, cell, plan)
    frozen = audit.frozen_digest(model)
    model.to(execution.device)
    training = Training(model, make_optimizer(model, cell.recipe), dataset, cell, execution)
    return Ready(training, found, frozen, {**facts, **provenance.collect(device=execution.device)})


def _prepare(cell: Cell, execution: Execution) -> None:
    """Seed and set the precision before any tensor exists."""
    if execution.device != "cpu" and "NVIDIA_TF32_OVERRIDE" in os.environ:
        raise RunError(
            "NVIDIA_TF32_OVERRIDE is set: cuBLAS would not keep to the cell's precision "
            f"({cell.recipe.precision}); unset it in the job's environment"
        )
    if execution.device != "cpu" and not torch.cuda.is_available():
        raise RunError("device is cuda, but torch sees none; check the job's GPUs and the driver")
    torch.manual_seed(cell.seed)
    torch.set_float32_matmul_precision(_MATMUL[cell.recipe.precision])
    torch.set_num_threads(execution.threads)


def _dataset(cell: Cell, workspace: Workspace) -> Dataset:
    dataset = open_dataset(
        workspace,
        corpus=cell.corpus,
        tokenizer=BACKBONES[cell.backbone].tokenizer,
        levels=cell.levels,
    )
    if dataset.facts["corpus_sha256"] != cell.corpus_sha256:
        raise RunError(
            f"{workspace.corpus(cell.corpus)} is {dataset.facts['corpus_sha256'][:12]}, but the "
            f"cell was planned for {(cell.corpus_sha256 or 'none')[:12]}; submit the study again"
        )
    return dataset


def _model(cell: Cell, dataset: Dataset, workspace: Workspace) -> tuple[Classifier, dict[str, str]]:
    """A fresh classifier on the checkpoint's weights, and facts about it and its data."""
    row = BACKBONES[cell.backbone]
    backbone, weights_sha256 = load(row, workspace.model(cell.backbone))
    classes = {level: len(dataset.classes[level]) for level in cell.levels}
    facts = {"weights_sha256": weights_sha256, "backbone_revision": row.revision or "local"}
    return Classifier(backbone, width=row.width, classes=classes), {**facts, **dataset.facts}


def _resume(directory: Path, state: State, training: Training, *, frozen: str) -> History:
    """Take up the newest checkpoint, if any; the history up to it."""
    saved = checkpoint.load(directory)
    if saved is None:
        return History()
    if saved["frozen"] != frozen:
        raise RunError(
            f"{directory}: checkpoint of other frozen weights; if the model files were replaced "
            "on purpose, delete the directory and submit again"
        )
    return checkpoint.restore(saved, state, training.optimizer, training.model)


def _attempt(
    number: int, started_utc: str, step: int, cell: Cell, execution: Execution
) -> dict[str, int | str]:
    """A row of the result's ``attempts``."""
    return {
        "number": number,
        "node": os.uname().nodename,
        "started_utc": started_utc,
        "first_step": step,
        "micro_batch": execution.micro_batch,
        "accumulation": accumulation(cell, execution),
        "ranks": execution.ranks,
    }
