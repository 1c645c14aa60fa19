from dataclasses import replace
from pathlib import Path

import pytest

from gpuwork.registry import BACKBONES, STRATEGIES
from jobs.grids import demo, taxonomy_paper
from jobs.resources import (
    TRAIN_FACTOR,
    Shape,
    Workload,
    by_shape,
    cell_flop,
    cells_at_once,
    execution,
    forward_flop,
    gpu_hours,
    micro_batch,
    shape,
    tokens_per_sequence,
)
from jobs.site import ExecutionSection, LocalSection, Site, SlurmSection

PAPER = list(taxonomy_paper.cells())
FULL_50M = next(cell for cell in PAPER if (cell.backbone, cell.strategy) == ("nt_v2_50m", "full"))
TAXONOMY = Workload(train=4_570_418, validation=507_824, test=103_638, length_bp=1500)
GPU = Site(file=Path("site.toml"), execution=ExecutionSection(device="cuda"))
CPU = Site(file=Path("site.toml"), execution=ExecutionSection(device="cpu"))


@pytest.mark.parametrize(
    ("backbone", "tokens", "gigaflop"),
    [
        ("nt_v2_50m", 251, 26.8),
        ("nt_v2_100m", 251, 49.2),
        ("nt_v2_250m", 251, 118.3),
        ("dnabert2", 300, 71.3),
        ("dnabert_s", 300, 71.3),
    ],
)
def test_forward_flop_of_the_published_table(backbone: str, tokens: int, gigaflop: float) -> None:
    assert round(forward_flop(BACKBONES[backbone], tokens=tokens) / 1e9, 1) == gigaflop


def test_forward_flop_by_hand() -> None:
    # 2 layers x (4 x 64^2 + 3 x 64 x 128) = 81,920 weights, twice per token, and attention.
    assert forward_flop(BACKBONES["nt_v2_nano"], tokens=10) == 2 * 10 * 81_920 + 4 * 2 * 100 * 64


def test_tokens_of_a_fragment() -> None:
    dnabert = next(cell for cell in PAPER if cell.backbone == "dnabert2")
    assert tokens_per_sequence(FULL_50M, length_bp=1500) == 251
    assert tokens_per_sequence(dnabert, length_bp=1500) == 302
    assert tokens_per_sequence(FULL_50M, length_bp=30_000) == FULL_50M.recipe.max_tokens


def test_full_fine_tuning_of_the_50m_backbone() -> None:
    # 26.8 GFLOP x (5 x (3 x 4,570,418 + 507,824) + 103,638) at 100 TFLOP/s.
    assert gpu_hours(FULL_50M, TAXONOMY) == pytest.approx(5.30, abs=0.01)


def test_every_strategy_has_a_factor_and_costs_what_it_says() -> None:
    assert set(TRAIN_FACTOR) == set(STRATEGIES)
    lora = next(cell for cell in PAPER if (cell.backbone, cell.rank) == ("nt_v2_50m", 1))
    only_train = replace(TAXONOMY, validation=0, test=0)
    assert cell_flop(FULL_50M, only_train) / cell_flop(lora, only_train) == pytest.approx(1.5)


def test_shape_is_predicted_time_rounded_up_and_clamped() -> None:
    # 5.30 h x 1.5 + 5 min = 482 min: the next step is 720.
    limited = replace(GPU, slurm=SlurmSection(minutes_limit=240))
    assert shape(FULL_50M, TAXONOMY, site=GPU, executor="slurm") == Shape(
        gpus=1, cpus=8, mem_gb=32, minutes=720
    )
    assert shape(FULL_50M, TAXONOMY, site=limited, executor="slurm").minutes == 240
    tiny = Workload(train=10, validation=1, test=1, length_bp=1500)
    assert shape(FULL_50M, tiny, site=GPU, executor="slurm").minutes == 10


def test_device_follows_gres_under_slurm() -> None:
    auto = Site(file=Path("site.toml"))
    bare = replace(auto, slurm=SlurmSection(gres="", cpus_per_task=2))
    assert execution(FULL_50M, site=auto, executor="slurm").device == "cuda"
    plain = execution(FULL_50M, site=bare, executor="slurm")
    assert (plain.device, plain.threads) == ("cpu", 2)


def test_micro_batch_divides_the_effective_batch_and_fits() -> None:
    largest = next(cell for cell in PAPER if cell.backbone == "nt_v2_250m")
    assert micro_batch(FULL_50M, device="cuda") == 128
    assert micro_batch(largest, device="cuda") == 64
    assert micro_batch(largest, device="cpu") == 2
    assert micro_batch(next(iter(demo.cells())), device="cpu") == 16


def test_cells_at_once() -> None:
    assert cells_at_once(replace(CPU, local=LocalSection(cells_at_once=3))) == 3
    assert cells_at_once(replace(CPU, local=LocalSection(threads=10_000))) == 1


def test_cells_of_one_shape_share_a_group_longest_first() -> None:
    short, long = (Shape(gpus=1, cpus=8, mem_gb=32, minutes=m) for m in (10, 720))
    groups = by_shape({"a": short, "b": long, "c": short})
    assert list(groups.items()) == [(long, ("b",)), (short, ("a", "c"))]
