"""Backbones by their row in the registry: fresh, from a checkpoint, to a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from gpuwork.backbones import checkpoint_files
from gpuwork.backbones.checkpoint_files import CheckpointError
from gpuwork.backbones.nucleotide_transformer import NucleotideTransformer
from gpuwork.registry import Backbone

__all__ = ["ARCHITECTURES", "CheckpointError", "build", "load", "save"]

ARCHITECTURES: dict[str, type[NucleotideTransformer]] = {
    "nucleotide_transformer": NucleotideTransformer
}
"""The code behind each ``Backbone.architecture``."""


def build(backbone: Backbone) -> NucleotideTransformer:
    """A fresh, randomly initialized backbone, drawn from torch's global generator.

    Raises
    ------
    CheckpointError
        The row names an architecture that is not there, or another size than it describes.
    """
    if backbone.architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"backbone {backbone.name}: architecture {backbone.architecture!r} is not "
            f"implemented; there is: {', '.join(ARCHITECTURES)}"
        )
    module = ARCHITECTURES[backbone.architecture].from_row(backbone)
    count = sum(parameter.numel() for parameter in module.parameters())
    if count != backbone.parameters:
        raise CheckpointError(
            f"backbone {backbone.name} has {count} parameters, its row says "
            f"{backbone.parameters}; correct the row in gpuwork/registry.py"
        )
    return module


def load(backbone: Backbone, folder: Path) -> tuple[NucleotideTransformer, str]:
    """A backbone with the weights in `folder`, and the sha256 of their file.

    Parameters
    ----------
    folder
        Holds config.json and model.safetensors or pytorch_model.bin.

    Raises
    ------
    CheckpointError
        The files are absent, or describe or hold another model than the row does.
    """
    module = build(backbone)
    if not (folder / checkpoint_files.CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: no config.json there for backbone {backbone.name}; run "
            "`make models GRID=<your study>`"
        )
    _check_config(module, folder / checkpoint_files.CONFIG)
    digest = checkpoint_files.load_strict(
        module, folder, unused=module.unused_tensors(), constants=module.constants()
    )
    return module, digest


def save(module: NucleotideTransformer, backbone: Backbone, folder: Path) -> str:
    """Write a checkpoint that `load` takes for this row; returns the weights file's sha256.

    Raises
    ------
    CheckpointError
        The module is not of the shape that the row describes.
    """
    if module.config != type(module.config).from_row(backbone):
        raise CheckpointError(f"the model is not a {backbone.name}: its shape is {module.config}")
    return checkpoint_files.save(
        module, folder, config=module.config.published(), constants=module.constants()
    )


def _check_config(module: NucleotideTransformer, path: Path) -> None:
    """Refuse a config.json that describes another model than `module`."""
    found, expected = asdict(type(module.config).read(path)), asdict(module.config)
    if differing := [name for name in expected if found[name] != expected[name]]:
        told = ", ".join(f"{n} is {found[n]!r}, not {expected[n]!r}" for n in differing)
        raise CheckpointError(
            f"{path}: describes another model: {told}; fetch the checkpoint that the backbone's "
            "row in gpuwork/registry.py names"
        )
