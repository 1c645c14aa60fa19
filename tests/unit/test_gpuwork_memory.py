from __future__ import annotations

import math
import sys
import threading
import time
import types

import numpy as np
import pytest
import torch

from gpuwork import memory
from gpuwork.memory import energy_j, memory_kind, peak_bytes, peak_reserved_bytes, probe, reset_peak

UUID = "5b1c4a2e-0000-4444-8888-123456789abc"


class FakeNvml(types.ModuleType):
    """The part of pynvml that is used, for a node of four GPUs: no test machine has one to lose."""

    nvmlMemory_v2 = 33554472
    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self):
        super().__init__("pynvml")
        self.uuids = {f"GPU-{UUID}": "by uuid"}
        self.asked = []
        self.reads = 0
        self.fails_at = math.inf
        self.power_w = 300.0
        self.processes = 1

    def nvmlInit(self):
        self.asked.append("init")

    def nvmlShutdown(self):
        self.asked.append("shutdown")

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)
        if uuid not in self.uuids:
            raise self.NVMLError("not found")
        return self.uuids[uuid]

    def nvmlDeviceGetHandleByIndex(self, index):
        self.asked.append(index)
        return f"by index {index}"

    def nvmlDeviceGetMemoryInfo(self, handle, version):
        assert version == self.nvmlMemory_v2
        self.reads += 1
        if self.reads >= self.fails_at:
            raise self.NVMLError("GPU is lost")
        return types.SimpleNamespace(used=7 << 30)

    def nvmlDeviceGetPowerUsage(self, handle):
        if self.power_w is None:
            raise self.NVMLError_NotSupported("not supported")
        return int(self.power_w * 1000)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return types.SimpleNamespace(gpu=85, memory=40)

    def nvmlDeviceGetClockInfo(self, handle, clock):
        assert clock == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [object()] * self.processes


@pytest.fixture
def nvml(monkeypatch):
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    properties = types.SimpleNamespace(uuid=UUID)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    return fake


def watch(device, *, until, **settings):
    """Run a probe until it has as many samples, or an error; give up after ten seconds."""
    with probe(device, interval_s=0.01, **settings) as watched:
        for _ in range(1000):
            if watched.error or len(watched.samples()["time_s"]) >= until:
                break
            time.sleep(0.01)
    return watched


def test_columns_are_those_of_the_result_layout():
    samples = watch("cpu", until=1).samples()
    assert list(samples) == [
        "time_s",
        "memory_bytes",
        "power_w",
        "utilization",
        "clock_hz",
        "other_tenants",
    ]
    assert [values.dtype.name for values in samples.values()] == [
        "float64",
        "int64",
        "float64",
        "float64",
        "float64",
        "int64",
    ]


def test_on_a_cpu_the_process_is_watched():
    watched = watch("cpu", until=3)
    samples = watched.samples()
    assert watched.error is None
    assert (np.diff(samples["time_s"]) > 0).all()
    assert (samples["memory_bytes"] > 50_000_000).all()  # torch is loaded
    for name in ("power_w", "utilization", "clock_hz"):
        assert np.isnan(samples[name]).all()
    assert (samples["other_tenants"] == 0).all()


def test_no_sample_is_taken_after_the_block():
    watched = watch("cpu", until=2)
    count = len(watched.samples()["time_s"])
    time.sleep(0.05)
    assert len(watched.samples()["time_s"]) == count


def test_time_counts_from_where_it_is_told():
    samples = watch("cpu", until=1, began_s=time.monotonic() - 100.0).samples()
    assert 100.0 <= samples["time_s"][0] < 110.0


def test_on_cuda_the_gpu_that_torch_uses_is_watched(nvml):
    nvml.processes = 3
    watched = watch("cuda", until=2)
    assert watched.error is None
    assert nvml.asked == ["init", f"GPU-{UUID}"]
    first = {name: values[0] for name, values in watched.samples().items()}
    del first["time_s"]
    assert first == {
        "memory_bytes": 7 << 30,
        "power_w": 300.0,
        "utilization": 0.85,
        "clock_hz": 1.98e9,
        "other_tenants": 2,
    }


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, 1), ("3,2", 2), ("GPU-aaaa,GPU-bbbb", "GPU-bbbb"), (" 0, 3 ", 3)],
)
def test_an_unknown_uuid_falls_back_to_the_visible_devices(nvml, monkeypatch, visible, asked):
    nvml.uuids = {"GPU-bbbb": "by uuid"}
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert watch("cuda", until=1).error is None
    assert nvml.asked == ["init", f"GPU-{UUID}", asked]


def test_what_a_gpu_does_not_tell_is_nan_and_the_rest_goes_on(nvml):
    nvml.power_w = None
    watched = watch("cuda", until=2)
    assert watched.error is None
    assert np.isnan(watched.samples()["power_w"]).all()
    assert (watched.samples()["utilization"] == 0.85).all()


def test_a_gpu_lost_midway_ends_the_sampling_alone(nvml):
    nvml.fails_at = 3
    watched = watch("cuda", until=math.inf)
    assert watched.error == "NVMLError: GPU is lost"
    assert {len(values) for values in watched.samples().values()} == {2}


def test_a_probe_that_cannot_start_has_no_samples(nvml, monkeypatch):
    def fail():
        raise nvml.NVMLError("driver not loaded")

    monkeypatch.setattr(nvml, "nvmlInit", fail)
    watched = watch("cuda", until=1)
    assert watched.error == "NVMLError: driver not loaded"
    assert {len(values) for values in watched.samples().values()} == {0}


def test_a_driver_that_hangs_does_not_hold_the_cell(nvml, monkeypatch):
    answer = threading.Event()
    monkeypatch.setattr(memory, "_STOP_S", 0.05)
    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", lambda *_, **__: answer.wait(10))
    with probe("cuda") as watched:
        pass
    assert watched.error == "the driver did not answer within 0.05 s"
    answer.set()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_in_the_block_is_the_callers(device):
    with pytest.raises(KeyError, match="mine") as caught, probe(device):
        raise KeyError("mine")
    assert caught.value.__context__ is None


def test_the_peak_of_a_process_is_at_least_what_it_holds():
    held = np.ones(40_000_000, dtype=np.uint8)
    assert peak_bytes("cpu") > held.nbytes
    before = peak_bytes("cpu")
    reset_peak("cpu")
    assert peak_bytes("cpu") >= before
    assert memory_kind("cpu") == "process_rss"


def test_the_peak_on_cuda_is_the_allocators(monkeypatch):
    peak = {"bytes": 123}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak["bytes"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.update(bytes=0))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 2 * peak["bytes"])
    assert peak_bytes("cuda") == 123
    assert peak_reserved_bytes("cuda") == 246
    reset_peak("cuda")
    assert peak_bytes("cuda") == 0
    assert memory_kind("cuda") == "cuda_allocated"


def series(times, power):
    return {"time_s": np.array(times, dtype=float), "power_w": np.array(power, dtype=float)}


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected_j"),
    [
        (0.0, 4.0, 200.0 + 300.0 + 300.0 + 200.0),  # trapezoids of 100, 300, 300, 300, 100 W
        (1.0, 3.0, 600.0),
        (0.5, 1.0, 0.5 * (200.0 + 300.0) / 2),  # cut between two samples
        (3.5, 5.0, 0.5 * (200.0 + 100.0) / 2 + 100.0),  # the last power holds on
        (-1.0, 0.0, 100.0),
    ],
)
def test_energy_is_the_integral_of_power(start_s, end_s, expected_j):
    samples = series([0, 1, 2, 3, 4], [100, 300, 300, 300, 100])
    assert energy_j(samples, start_s=start_s, end_s=end_s) == pytest.approx(expected_j)


def test_energies_of_neighboring_epochs_add_up():
    rng = np.random.default_rng(0)
    samples = series(np.sort(rng.uniform(0, 60, 400)), rng.uniform(70, 700, 400))
    parts = [energy_j(samples, start_s=s, end_s=s + 20) for s in (0.0, 20.0, 40.0)]
    assert sum(parts) == pytest.approx(energy_j(samples, start_s=0.0, end_s=60.0))


@pytest.mark.parametrize(
    ("samples", "end_s"),
    [
        (series([], []), 1.0),
        (series([0, 1, 2], [math.nan] * 3), 2.0),
        (series([0, 1, 2, 40], [100] * 4), 40.0),
        (series([0, 1, 2], [100] * 3), 33.0),
        (series([5], [100]), 4.0),
    ],
    ids=["no samples", "a CPU", "a gap inside", "sampling ended early", "none in the window"],
)
def test_unknown_energy_is_nan(samples, end_s):
    assert math.isnan(energy_j(samples, start_s=0.0, end_s=end_s))
