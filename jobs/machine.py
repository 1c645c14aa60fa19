"""What this machine has: cores and NVIDIA devices."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache


def cores() -> int:
    """CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@cache
def cuda_devices() -> int:
    """NVIDIA devices the driver reports; 0 without a driver."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30, check=False
    )
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
