"""Where a result comes from: code, data, weights, software, machine, job."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import h5py
import torch

PACKAGES = ("torch", "transformers", "peft", "numpy", "h5py", "submitit")
SLURM = (
    "CLUSTER_NAME",
    "JOB_ID",
    "ARRAY_JOB_ID",
    "ARRAY_TASK_ID",
    "RESTART_COUNT",
    "JOB_PARTITION",
)


def code_sha256(directory: Path = Path(__file__).parent) -> str:
    """Digest over the source of this package: what the numbers were computed with."""
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*.py")):
        total.update(f"{path.relative_to(directory).as_posix()}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def code_revision(directory: Path = Path(__file__).parent) -> str:
    """The git commit, with ``-dirty`` if the tree differs from it; ``unknown`` outside git."""
    command = ["git", "-C", str(directory), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def collect(*, device: str) -> dict[str, str]:
    """Facts about code, software, machine and job, all as text."""
    facts = {
        "code_sha256": code_sha256(),
        "code_revision": code_revision(),
        "python": platform.python_version(),
        "hdf5": h5py.version.hdf5_version,
        "hostname": platform.node(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "threads": str(torch.get_num_threads()),
        **{f"{name}_version": version(name) for name in PACKAGES},
        **{f"slurm_{name.lower()}": os.environ.get(f"SLURM_{name}", "") for name in SLURM},
    }
    return {**facts, **_device_facts(device)}


def _device_facts(device: str) -> dict[str, str]:
    if device == "cpu":
        return {"device": platform.processor() or platform.machine(), "cuda": "none"}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": properties.name,
        "device_uuid": str(properties.uuid),
        "device_bytes": str(properties.total_memory),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }
