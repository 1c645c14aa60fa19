"""The loop: from a model that is ready to train to its best epoch.

It can be left at any step boundary and taken up again with the same bits: the order of the data
and the dropout masks are functions of (seed, epoch, step), and all else is in `checkpoint.State`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gpuwork import memory
from gpuwork.checkpoint import State, trained_tensors
from gpuwork.data import Dataset, Ints, epoch_order
from gpuwork.evaluate import Stopped, batches, evaluate, forward
from gpuwork.model import Classifier, summed_cross_entropy
from gpuwork.spec import Cell, Execution, Recipe, accumulation

Report = Callable[[dict[str, float | int | str]], None]


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, with what, on what, how."""

    model: Classifier
    optimizer: torch.optim.Optimizer
    dataset: Dataset
    cell: Cell
    execution: Execution

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last may see a smaller batch."""
        return math.ceil(len(self.dataset.rows["train"]) / self.cell.recipe.effective_batch)

    @property
    def steps(self) -> int:
        """Optimizer steps if no epoch is saved by early stopping."""
        return self.steps_per_epoch * self.cell.recipe.epochs

    def learning_rate(self, step: int) -> float:
        """Learning rate of optimizer step `step`, from 0."""
        return learning_rate_at(step, total=self.steps, recipe=self.cell.recipe)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls: all of it may be a lambda in a test.

    Attributes
    ----------
    should_stop
        Asked after every optimizer step and between batches of a validation.
    save
        Writes a checkpoint of the state.
    on_progress
        Told after every optimizer step how far things are.
    clock_s
        Seconds spent on the cell so far, earlier attempts included.
    """

    should_stop: Callable[[], bool]
    save: Callable[[], None]
    on_progress: Report
    clock_s: Callable[[], float]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (0.9, 0.999, 1e-8) over the tensors that train."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained,
        lr=recipe.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=recipe.weight_decay,
        fused=True,
    )


def learning_rate_at(step: int, *, total: int, recipe: Recipe) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then half a cosine to 0."""
    warmup = round(recipe.warmup_fraction * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))


def best_epoch(epochs: list[dict[str, float]]) -> int:
    """Index of the first epoch with the lowest validation loss."""
    return min(range(len(epochs)), key=lambda index: epochs[index]["validation_loss"])


def is_finished(state: State, recipe: Recipe) -> bool:
    """Whether all epochs are done or `patience` of them brought no lower validation loss."""
    done = len(state.epochs)
    if done == 0:
        return False
    return done >= recipe.epochs or done - 1 - best_epoch(state.epochs) >= recipe.patience


def train(training: Training, state: State, hooks: Hooks) -> bool:
    """Train until finished (True) or stopped (False, with a checkpoint saved).

    Raises
    ------
    FloatingPointError
        The loss of an epoch is not finite.
    """
    cell, per_epoch = training.cell, training.steps_per_epoch
    accumulation(cell, training.execution)
    saved_at = time.monotonic()
    while not is_finished(state, cell.recipe):
        epoch = len(state.epochs)
        order = epoch_order(training.dataset.rows["train"], seed=cell.seed, epoch=epoch)
        training.model.train()
        while state.step < (epoch + 1) * per_epoch:
            began = time.monotonic()
            first = (state.step - epoch * per_epoch) * cell.recipe.effective_batch
            optimizer_step(training, state, order[first : first + cell.recipe.effective_batch])
            state.epoch_s += time.monotonic() - began
            hooks.on_progress(_progress(training, state, phase="train"))
            if hooks.should_stop():
                hooks.save()
                return False
            if time.monotonic() - saved_at > training.execution.checkpoint_interval_s:
                hooks.save()
                saved_at = time.monotonic()
        state.epoch_s += _drain(training.execution.device)
        hooks.on_progress(_progress(training, state, phase="validation"))
        try:
            finish_epoch(training, state, hooks)
        except Stopped:
            hooks.save()
            return False
    return True


def optimizer_step(training: Training, state: State, rows: Ints) -> None:
    """One step on one effective batch: micro-batches forward and backward, clip, update."""
    cell, execution, optimizer = training.cell, training.execution, training.optimizer
    torch.manual_seed(_dropout_seed(cell.seed, state.step))
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate(state.step)
    for batch in batches(training.dataset, rows, cell=cell, size=execution.micro_batch):
        logits = forward(training.model, batch, cell=cell, execution=execution)
        labels = batch.labels.to(execution.device, non_blocking=True)
        loss = summed_cross_entropy(logits, labels) / len(rows)
        loss.backward()
        state.loss[state.step] += loss.detach()
        state.epoch_tokens += batch.tokens
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], cell.recipe.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.step += 1


def finish_epoch(training: Training, state: State, hooks: Hooks) -> None:
    """Validate, append the epoch's row, keep its weights if they are the best so far.

    Raises
    ------
    Stopped
        A stop was asked for; the epoch's training is done, its validation is not.
    FloatingPointError
        A loss is not finite.
    """
    began = time.monotonic()
    dataset, execution = training.dataset, training.execution
    found = evaluate(
        training.model,
        dataset,
        dataset.rows["validation"],
        cell=training.cell,
        execution=execution,
        should_stop=hooks.should_stop,
    )
    note_peaks(state, execution.device)
    row = {
        "epoch": len(state.epochs),
        "train_loss": _mean_train_loss(training, state),
        "validation_loss": found.loss,
        "train_s": state.epoch_s,
        "validation_s": time.monotonic() - began,
        "sequences_per_s": len(dataset.rows["train"]) / state.epoch_s,
        "tokens_per_s": state.epoch_tokens / state.epoch_s,
        "peak_bytes": state.peak_bytes,
        "peak_reserved_bytes": state.peak_reserved_bytes,
        "ended_s": hooks.clock_s(),
        **{f"balanced_accuracy/{level}": v for level, v in found.balanced_accuracy.items()},
    }
    if not (math.isfinite(row["train_loss"]) and math.isfinite(row["validation_loss"])):
        raise FloatingPointError(
            f"epoch {len(state.epochs) + 1}: train loss {row['train_loss']}, validation loss "
            f"{row['validation_loss']}; lower the learning rate "
            f"({training.cell.recipe.learning_rate}) or use precision fp32"
        )
    state.epochs.append(row)
    if best_epoch(state.epochs) == len(state.epochs) - 1:
        state.best = trained_tensors(training.model)
    state.epoch_s, state.epoch_tokens = 0.0, 0
    state.peak_bytes, state.peak_reserved_bytes = 0, 0
    memory.reset_peak(execution.device)


def note_peaks(state: State, device: str) -> None:
    """Keep the unfinished epoch's peaks: the allocator's own end with the process."""
    state.peak_bytes = max(state.peak_bytes, memory.peak_bytes(device))
    state.peak_reserved_bytes = max(state.peak_reserved_bytes, memory.peak_reserved_bytes(device))


def _drain(device: str) -> float:
    """Seconds until the device has done all that it was given."""
    began = time.monotonic()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.monotonic() - began


def _mean_train_loss(training: Training, state: State) -> float:
    """Mean over the epoch's sequences, each as it was when its step met it."""
    n_train, batch = len(training.dataset.rows["train"]), training.cell.recipe.effective_batch
    per_epoch = training.steps_per_epoch
    sizes = np.full(per_epoch, batch)
    sizes[-1] = n_train - (per_epoch - 1) * batch
    losses = state.loss[state.step - per_epoch : state.step].cpu().numpy()
    return float((losses * sizes).sum() / n_train)


def _progress(training: Training, state: State, *, phase: str) -> dict[str, float | int | str]:
    batch, per_epoch = training.cell.recipe.effective_batch, training.steps_per_epoch
    done: dict[str, float | int | str] = {
        "phase": phase,
        "epoch": len(state.epochs) + 1,
        "epochs": training.cell.recipe.epochs,
        "step": state.step,
        "steps": training.steps,
    }
    seen = (state.step - len(state.epochs) * per_epoch) * batch
    if not seen:
        return {**done, "sequences_per_s": 0.0, "left_s": 0.0}
    rate = seen / state.epoch_s
    return {**done, "sequences_per_s": rate, "left_s": (training.steps - state.step) * batch / rate}


def _dropout_seed(seed: int, step: int) -> int:
    """Both numbers mixed into one of 63 bits, so that no two (seed, step) share dropout masks."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))
