"""What a cell needs: arithmetic, predicted time, and the shape of the task that runs it.

Everything here is a prediction from the size of the model and of the corpus; nothing is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuwork.registry import BACKBONES, Backbone
from gpuwork.spec import Cell, Execution
from jobs.machine import cores, cuda_devices
from jobs.site import Site

GPU_FLOPS = {"fp32": 30e12, "tf32": 100e12, "bf16": 200e12}
"""Assumed sustained FLOP/s of one H100 per precision: about 65 % of what matrix products and
memory traffic one after the other allow (302, 156 and 46 TFLOP/s for nt_v2_50m)."""

CPU_FLOPS_PER_CORE = 25e9
"""Assumed sustained FLOP/s of one CPU core in float32."""

TRAIN_FACTOR = {
    "full": 3.0,
    "random_init": 3.0,
    "frozen75": 1.46,
    "head_only": 1.0,
    "lora": 2.0,
    "ia3": 2.0,
}
"""Arithmetic of a training step in forward passes: forward, gradients of activations, gradients
of weights. Adapters need no weight gradients; frozen75 goes back through about 23 % of the layers;
a head needs the forward pass alone."""

_TOKENS_PER_BASE = {"nt_v2": (1, 1 / 6), "dnabert2": (2, 1 / 5)}
"""Special tokens per sequence, and tokens per base of upper-case DNA."""

_GPU_BUDGET_BYTES = 60e9
_CPU_BUDGET_BYTES = 2e9
_STARTUP_MINUTES = 5
_MARGIN = 1.5
_MINUTES = (10, 30, 60, 120, 240, 480, 720, 1440, 2880, 5760, 11520)
"""Time limits asked for; few values, because cells of one limit share an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """How much data a cell goes through.

    Attributes
    ----------
    train, validation, test
        Sequences per split.
    length_bp
        Mean length of a sequence.
    """

    train: int
    validation: int
    test: int
    length_bp: float


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Shape:
    """What one array task asks for: cells of one shape share an array."""

    gpus: int
    cpus: int
    mem_gb: int
    minutes: int


def tokens_per_sequence(cell: Cell, *, length_bp: float) -> int:
    """Expected tokens of a sequence, special ones included, as the cell cuts it."""
    special, per_base = _TOKENS_PER_BASE[BACKBONES[cell.backbone].tokenizer]
    return min(round(special + length_bp * per_base), cell.recipe.max_tokens)


def forward_flop(backbone: Backbone, *, tokens: int) -> float:
    """Floating-point operations of one forward pass of one sequence; a multiply-add counts two.

    Linear layers (attention's four, the gated feed-forward's three) and the two attention
    products; embeddings, normalization and heads are left out.
    """
    width = backbone.width
    linear = backbone.layers * (4 * width**2 + 3 * width * backbone.inner_width)
    attention = 4 * backbone.layers * tokens**2 * width
    return float(2 * tokens * linear + attention)


def cell_flop(cell: Cell, workload: Workload) -> float:
    """Floating-point operations of all epochs of training and validation, and one test."""
    tokens = tokens_per_sequence(cell, length_bp=workload.length_bp)
    forward = forward_flop(BACKBONES[cell.backbone], tokens=tokens)
    per_epoch = TRAIN_FACTOR[cell.strategy] * workload.train + workload.validation
    return forward * (cell.recipe.epochs * per_epoch + workload.test)


def gpu_hours(cell: Cell, workload: Workload) -> float:
    """Predicted hours on one H100."""
    return cell_flop(cell, workload) / GPU_FLOPS[cell.recipe.precision] / 3600


def cpu_hours(cell: Cell, workload: Workload, *, threads: int) -> float:
    """Predicted hours on this many CPU threads."""
    return cell_flop(cell, workload) / (CPU_FLOPS_PER_CORE * threads) / 3600


def device(site: Site, *, executor: str) -> str:
    """``cpu`` or ``cuda``: what the site says, or what is asked for or found."""
    if site.execution.device != "auto":
        return site.execution.device
    has_gpu = bool(site.slurm.gres) if executor == "slurm" else cuda_devices() > 0
    return "cuda" if has_gpu else "cpu"


def shape(cell: Cell, workload: Workload, *, site: Site, executor: str) -> Shape:
    """The task that runs the cell: predicted time x 1.5 + 5 min as the limit, in few steps."""
    on = device(site, executor=executor)
    cpus = site.slurm.cpus_per_task if executor == "slurm" else site.local.threads
    hours = gpu_hours(cell, workload) if on == "cuda" else cpu_hours(cell, workload, threads=cpus)
    needed = hours * 60 * _MARGIN + _STARTUP_MINUTES
    bucket = next((minutes for minutes in _MINUTES if minutes >= needed), _MINUTES[-1])
    return Shape(
        gpus=int(on == "cuda"),
        cpus=cpus,
        mem_gb=site.slurm.mem_gb,
        minutes=min(bucket, site.slurm.minutes_limit),
    )


def execution(cell: Cell, *, site: Site, executor: str) -> Execution:
    """How the cell is executed on this site; never changes what the cell is."""
    on = device(site, executor=executor)
    return Execution(
        device=on,
        micro_batch=micro_batch(cell, device=on),
        threads=site.slurm.cpus_per_task if executor == "slurm" else site.local.threads,
    )


def micro_batch(cell: Cell, *, device: str) -> int:
    """Largest divisor of the effective batch whose activations fit, 1 at least.

    Activations kept for the backward pass, from the layer's shape (attention without stored
    probabilities), at the cell's longest sequence, in 60 GB of a GPU or 2 GB of a CPU's memory.
    """
    backbone = BACKBONES[cell.backbone]
    number_bytes = 2 if cell.recipe.precision == "bf16" else 4
    per_token = number_bytes * backbone.layers * (8 * backbone.width + 4 * backbone.inner_width)
    budget = _GPU_BUDGET_BYTES if device == "cuda" else _CPU_BUDGET_BYTES
    fitting = budget / (per_token * cell.recipe.max_tokens)
    batch = cell.recipe.effective_batch
    return max(
        (size for size in range(1, batch + 1) if batch % size == 0 and size <= fitting), default=1
    )


def cells_at_once(site: Site) -> int:
    """Cells the local pool runs at a time."""
    if site.local.cells_at_once is not None:
        return site.local.cells_at_once
    if device(site, executor="local") == "cuda":
        return max(1, cuda_devices())
    return max(1, cores() // site.local.threads)


def by_shape(shapes: Mapping[str, Shape]) -> dict[Shape, tuple[str, ...]]:
    """Cell ids grouped by shape, longest first: one array, or more, per group."""
    groups: dict[Shape, list[str]] = {}
    for identity, needed in shapes.items():
        groups.setdefault(needed, []).append(identity)
    return {needed: tuple(groups[needed]) for needed in sorted(groups, reverse=True)}
