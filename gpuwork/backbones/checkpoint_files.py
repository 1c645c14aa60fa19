"""Checkpoints on disk in the published layout: read strictly, written atomically."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gpuwork.schema import commit

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights file, the preferred one first."""

ABSENT = "absent"
"""Stands for a field that is not in a config.json."""


class CheckpointError(ValueError):
    """A checkpoint that is not exactly what its backbone needs: what is wrong, what to do."""


def load_strict(
    module: nn.Module, folder: Path, *, unused: Set[str], constants: Mapping[str, Tensor]
) -> str:
    """Copy a checkpoint's tensors into `module`, all of them or, on any difference, none.

    A tied tensor may be stored once or under each of its names, then with one value.

    Parameters
    ----------
    folder
        Holds model.safetensors or pytorch_model.bin; the pickle is read with weights_only.
    unused
        Parameters that never act. The checkpoint may lack them; they keep their start.
    constants
        Entries of the checkpoint that are no parameters, with the values they must have. The
        checkpoint may lack them.

    Returns
    -------
    str
        sha256 of the weights file.

    Raises
    ------
    CheckpointError
        There is no readable weights file, or a tensor in it is missing, extra, of another shape
        or type, or a constant or tied tensor differs; lists them all.
    """
    path = weights_file(folder)
    stored = _read(path)
    targets = dict(module.named_parameters())
    tied = _tied(module)
    known = {**targets, **{name: targets[first] for name, first in tied.items()}, **constants}
    missing = sorted(targets.keys() - stored.keys() - unused)
    extra = sorted(stored.keys() - known.keys())
    misshapen = [
        f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, "
        f"expected {tuple(known[name].shape)} of {torch.float32}"
        for name, tensor in sorted(stored.items())
        if name in known and (tensor.shape, tensor.dtype) != (known[name].shape, torch.float32)
    ]
    _refuse(path, {"missing": missing, "extra": extra, "misshapen": misshapen})
    untied = [
        f"{name} is not {first}"
        for name, first in tied.items()
        if name in stored and not torch.equal(stored[name], stored[first])
    ]
    altered = [
        name
        for name, value in constants.items()
        if name in stored and not torch.allclose(stored[name], value, rtol=1e-6, atol=0.0)
    ]
    _refuse(path, {"not tied": untied, "not the values of the formula": altered})
    with torch.no_grad():
        for name in targets.keys() & stored.keys():
            targets[name].copy_(stored[name])
    return sha256(path)


def save(
    module: nn.Module,
    folder: Path,
    *,
    config: Mapping[str, object],
    constants: Mapping[str, Tensor],
) -> str:
    """Write config.json, then model.safetensors, each appearing only complete.

    A tied tensor is stored once, under its first name. Returns the sha256 of the weights file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu() for name, tensor in module.named_parameters()}
    text = json.dumps(config, indent=1, sort_keys=True) + "\n"
    weights = folder / WEIGHTS[0]
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as directory:
        written = Path(directory)
        (written / CONFIG).write_text(text, encoding="utf-8")
        save_file({**tensors, **constants}, written / WEIGHTS[0], metadata={"format": "pt"})
        commit(written / CONFIG, folder / CONFIG)
        commit(written / WEIGHTS[0], weights)
    return sha256(weights)


def read_config(
    path: Path, *, kinds: Mapping[str, type], fixed: Mapping[str, tuple[object, ...]]
) -> dict[str, Any]:
    """Values of some fields of a config.json.

    Parameters
    ----------
    kinds
        The fields that are read, with their types.
    fixed
        Fields that must have one of these values (`ABSENT` among them where they may be left
        out); they are not returned.

    Raises
    ------
    CheckpointError
        The file is no JSON object; a field is missing, or of another type or value; lists them.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{path}: is no JSON object; fetch the published config.json")
    entries = {**dict.fromkeys([*kinds, *fixed], ABSENT), **entries}
    refused = [
        f"{name} is {entries[name]!r}, expected {kind.__name__}"
        for name, kind in kinds.items()
        if not isinstance(entries[name], (int, float) if kind is float else kind)
    ] + [
        f"{name} is {entries[name]!r}, implemented: {', '.join(map(repr, values))}"
        for name, values in fixed.items()
        if entries[name] not in values
    ]
    if refused:
        raise CheckpointError(
            f"{path}: cannot be followed: {'; '.join(refused)}. Fetch the published config.json"
        )
    return {name: entries[name] for name in kinds}


def weights_file(folder: Path) -> Path:
    """The weights file in `folder`.

    Raises
    ------
    CheckpointError
        There is none.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(
        f"{folder}: holds neither {' nor '.join(WEIGHTS)}; run `make models GRID=<your study>`"
    )


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file, on the CPU."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error}); delete it and fetch it again"
        ) from error
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise CheckpointError(f"{path}: is no mapping of names to tensors; fetch it again")
    return stored


def _tied(module: nn.Module) -> dict[str, str]:
    """Further names of parameters that have several, each with the first name."""
    first: dict[int, str] = {}
    pairs = [
        (name, first.setdefault(id(parameter), name))
        for name, parameter in module.named_parameters(remove_duplicate=False)
    ]
    return {name: original for name, original in pairs if name != original}


def _refuse(path: Path, problems: Mapping[str, list[str]]) -> None:
    found = [f"{kind}: {', '.join(items)}" for kind, items in problems.items() if items]
    if found:
        raise CheckpointError(
            f"{path}: not a checkpoint of this backbone; {'; '.join(found)}. Fetch the published "
            "file again, or correct the backbone's row in gpuwork/registry.py"
        )
