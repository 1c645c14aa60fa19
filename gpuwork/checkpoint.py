"""Everything a restart needs, on disk atomically; the newest two are kept."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gpuwork.schema import commit

KEPT = 2


@dataclass(slots=True)
class State:
    """What training has come to. Saved in full by a checkpoint.

    Attributes
    ----------
    step
        Optimizer steps done.
    loss
        (all steps,) mean loss per sequence of each step in nats, on the training device.
    epochs
        One mapping of ``epochs/*`` columns per finished epoch.
    best
        Trainable tensors after the epoch with the lowest validation loss.
    epoch_s, epoch_tokens, peak_bytes, peak_reserved_bytes
        Time spent, tokens seen and memory taken in the epoch that is not finished.
    """

    loss: Tensor
    step: int = 0
    epochs: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch_s: float = 0.0
    epoch_tokens: int = 0
    peak_bytes: int = 0
    peak_reserved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """What happened to a cell so far, over all its attempts.

    Attributes
    ----------
    attempts
        Rows of a result's ``attempts`` table.
    run_s
        Seconds spent.
    samples
        ``gpu/*`` columns, their time on the clock that `run_s` counts.
    """

    attempts: tuple[dict[str, int | str], ...] = ()
    run_s: float = 0.0
    samples: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def extended(
        self, attempt: dict[str, int | str], run_s: float, samples: dict[str, npt.NDArray[Any]]
    ) -> History:
        """Add the attempt that goes on, whose samples start at its own zero."""
        new = {**samples, "time_s": samples["time_s"] + self.run_s}
        if self.samples:
            new = {name: np.concatenate([self.samples[name], new[name]]) for name in new}
        return History((*self.attempts, attempt), run_s, new)


def start(steps: int, *, device: str) -> State:
    """A state with nothing done of at most `steps` optimizer steps."""
    return State(loss=torch.zeros(steps, dtype=torch.float64, device=device))


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies, on the CPU, of the tensors that train."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_back(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give a model the values that `trained_tensors` copied.

    Raises
    ------
    ValueError
        The model trains other tensors than those given.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if set(trained) != set(tensors):
        odd = sorted(set(trained) ^ set(tensors))
        raise ValueError(f"the checkpoint is of another model: {odd[:5]} differ; delete it")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def payload(
    state: State,
    history: History,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    *,
    frozen: str,
) -> dict[str, Any]:
    """All of it as tensors and plain values.

    Parameters
    ----------
    frozen
        Digest of the tensors that do not train: they are not stored, but must be the same again.
    """
    return {
        "frozen": frozen,
        "state": {name: getattr(state, name) for name in State.__slots__},
        "weights": trained_tensors(model),
        "optimizer": optimizer.state_dict(),
        "attempts": list(history.attempts),
        "run_s": history.run_s,
        "samples": {name: torch.from_numpy(v) for name, v in history.samples.items()},
    }


def restore(
    saved: dict[str, Any], state: State, optimizer: torch.optim.Optimizer, model: nn.Module
) -> History:
    """Undo `payload`."""
    put_back(model, saved["weights"])
    optimizer.load_state_dict(saved["optimizer"])
    state.loss.copy_(saved["state"].pop("loss"))
    for name, value in saved["state"].items():
        setattr(state, name, value)
    samples = {name: values.numpy() for name, values in saved["samples"].items()}
    return History(tuple(saved["attempts"]), saved["run_s"], samples)


def save(directory: Path, *, step: int, payload: dict[str, Any]) -> Path:
    """Write a checkpoint of tensors and plain values; it appears only complete.

    Parameters
    ----------
    step
        Optimizer steps done; part of the file's name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".step-", suffix=".tmp", dir=directory)
    temporary = Path(name)
    path = directory / f"step-{step:010d}.pt"
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(payload, file)
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    found = _newest_first(directory)
    # Of a later step: damaged, or training would have gone on from it.
    later = found[: found.index(path)]
    for old in (*later, *found[len(later) + KEPT :]):
        old.unlink()
    return path


def load(directory: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None where there is none.

    A damaged file is passed over for the one before it: training repeats some steps and ends in
    the same place.
    """
    for path in _newest_first(directory):
        try:
            payload: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            continue
        return payload
    return None


def remove(directory: Path) -> None:
    """Delete a finished cell's checkpoints."""
    shutil.rmtree(directory, ignore_errors=True)


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*.pt"), reverse=True)
