"""What a device holds and draws while a cell trains: a sampling thread and torch's own peaks."""

from __future__ import annotations

import math
import os
import resource
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from gpuwork.layouts import LAYOUTS

COLUMNS = {
    name.removeprefix("gpu/"): column.dtype
    for name, column in LAYOUTS["result"].items()
    if name.startswith("gpu/")
}
"""Columns of a result's ``gpu`` group with their dtypes."""

_LONGEST_GAP_S = 30.0
"""Energy is not guessed over a longer time without a sample."""

_STOP_S = 2.0
"""How long to wait for a thread that hangs in the driver before it is left behind."""

_UNKNOWN = -1
"""Of whole numbers, which have no NaN."""

Sample = dict[str, float]
Read = Callable[[], Sample]


class Probe:
    """Samples of a device, taken by a thread.

    Attributes
    ----------
    error
        Why sampling ended early, or None. A probe never fails what it watches.
    """

    def __init__(self, began_s: float) -> None:
        self.error: str | None = None
        self._began_s = began_s
        self._columns = {name: array("d") for name in COLUMNS}
        self._lock = threading.Lock()

    def samples(self) -> dict[str, npt.NDArray[Any]]:
        """The ``gpu`` columns so far, by name; times count from where the probe began."""
        with self._lock:
            return {
                name: np.array(self._columns[name], dtype=dtype) for name, dtype in COLUMNS.items()
            }

    def _follow(self, read: Read, *, interval_s: float, stop: threading.Event) -> None:
        """Sample until told to stop or a reading fails."""
        try:
            while True:
                sample = {"time_s": time.monotonic() - self._began_s, **read()}
                with self._lock:
                    for name, column in self._columns.items():
                        column.append(sample[name])
                if stop.wait(interval_s):
                    return
        except Exception as error:  # noqa: BLE001 - kept as text: a probe never fails a cell
            self.error = _told(error)


@contextmanager
def probe(
    device: str, *, interval_s: float = 0.15, began_s: float | None = None
) -> Iterator[Probe]:
    """Sample a device every `interval_s` while the block runs, from the moment it is entered.

    Parameters
    ----------
    device
        ``cuda``: memory in use on the whole GPU, power, utilization, clock of its
        multiprocessors and the number of other processes on it, through NVML. ``cpu``: resident
        memory of this process; the rest is NaN, without other tenants.
    began_s
        Reading of `time.monotonic` that is time 0 of the samples; None: now.
    """
    watch = Probe(time.monotonic() if began_s is None else began_s)
    read: Read | None = None
    try:
        # Opened here and not by the thread: which GPU is current is a matter of the thread.
        read = _cuda_reader() if device.startswith("cuda") else _process_reader()
    except Exception as error:  # noqa: BLE001 - kept as text: a probe never fails a cell
        watch.error = _told(error)
    if read is None:
        yield watch
        return
    stop = threading.Event()
    settings = {"interval_s": interval_s, "stop": stop}
    thread = threading.Thread(target=watch._follow, args=(read,), kwargs=settings, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join(_STOP_S)
        if thread.is_alive():
            watch.error = f"the driver did not answer within {_STOP_S} s"


def memory_kind(device: str) -> str:
    """What `peak_bytes` counts: ``cuda_allocated`` or ``process_rss``."""
    return "cuda_allocated" if device.startswith("cuda") else "process_rss"


def peak_bytes(device: str) -> int:
    """Most bytes that torch's tensors took on the GPU since `reset_peak`.

    On a CPU, the most that this process ever held.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def peak_reserved_bytes(device: str) -> int:
    """Most bytes that torch's allocator held on the GPU since `reset_peak`, in use or not.

    On a CPU, the same as `peak_bytes`.
    """
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_reserved())
    return peak_bytes(device)


def reset_peak(device: str) -> None:
    """Start a new peak. Without effect on a CPU, where the system keeps one per process."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def energy_j(samples: Mapping[str, npt.NDArray[Any]], *, start_s: float, end_s: float) -> float:
    """Power integrated from `start_s` to `end_s`, by trapezoids between samples.

    NaN where the power is unknown: on a CPU, or for more than 30 s at a stretch.
    """
    time_s, power_w = samples["time_s"], samples["power_w"]
    inside = (time_s >= start_s) & (time_s <= end_s)
    knots_s = np.concatenate([[start_s], time_s[inside], [end_s]])
    if not inside.any() or np.diff(knots_s).max() > _LONGEST_GAP_S:
        return math.nan
    return float(np.trapezoid(np.interp(knots_s, time_s, power_w), knots_s))


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _process_reader() -> Read:
    process = psutil.Process()

    def read() -> Sample:
        return {
            "memory_bytes": process.memory_info().rss,
            "power_w": math.nan,
            "utilization": math.nan,
            "clock_hz": math.nan,
            "other_tenants": 0,
        }

    return read


def _cuda_reader() -> Read:
    """NVML readings of torch's current GPU.

    NVML is never shut down: it lives as long as the process, and another part of it may use it.
    """
    import pynvml

    pynvml.nvmlInit()
    handle = _nvml_handle(pynvml)

    def known(reading: Callable[[], float]) -> float:
        """NaN for what this GPU does not tell, or not now, such as the power of a MIG slice."""
        try:
            return reading()
        except pynvml.NVMLError:
            return math.nan

    def tenants() -> float:
        # Counted, not matched by pid: NVML gives the host's pids, a container has its own.
        return max(0, len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) - 1)

    def read() -> Sample:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        others = known(tenants)
        return {
            "memory_bytes": memory.used,
            "power_w": known(lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3),
            "utilization": known(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            "clock_hz": known(
                lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM) * 1e6
            ),
            "other_tenants": _UNKNOWN if math.isnan(others) else others,
        }

    return read


def _nvml_handle(pynvml: Any) -> Any:
    """NVML's handle of torch's current GPU: by UUID, else by its place in CUDA_VISIBLE_DEVICES."""
    index = torch.cuda.current_device()
    uuid = str(torch.cuda.get_device_properties(index).uuid)
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
    except pynvml.NVMLError:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        name = visible.split(",")[index].strip() if visible else str(index)
        if name.isdecimal():
            return pynvml.nvmlDeviceGetHandleByIndex(int(name))
        return pynvml.nvmlDeviceGetHandleByUUID(name)
