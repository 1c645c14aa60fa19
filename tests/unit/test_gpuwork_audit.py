from __future__ import annotations

import pytest
import torch

from gpuwork import audit
from gpuwork.backbones import build
from gpuwork.model import Classifier
from gpuwork.registry import BACKBONES
from gpuwork.spec import Cell, Recipe
from gpuwork.strategies import APPLY
from tests import tiny

PAPER_CLASSES = {"superkingdom": 4, "phylum": 57, "genus": 1884}
ALL = [
    ("full", "trained"),
    ("random_init", "trained"),
    ("frozen75", "trained"),
    ("head_only", "trained"),
    ("lora", "trained"),
    ("lora", "frozen"),
    ("ia3", "trained"),
    ("ia3", "frozen"),
]


def paper_cell(backbone: str, strategy: str, *, heads: str, rank: int | None = None) -> Cell:
    adapter = {} if rank is None else {"alpha_rule": "constant_32", "adapter_dropout": 0.1}
    recipe = Recipe(learning_rate=2e-4, effective_batch=128, epochs=5, patience=3, **adapter)
    return Cell(
        task="taxonomy",
        corpus="taxonomy",
        backbone=backbone,
        strategy=strategy,
        heads=heads,
        rank=rank,
        seed=42,
        recipe=recipe,
    )


def classifier(backbone: str, classes) -> Classifier:
    row = BACKBONES[backbone]
    return Classifier(build(row), width=row.width, classes=classes)


@pytest.mark.parametrize(("strategy", "heads"), ALL)
def test_every_strategy_keeps_its_promise(strategy, heads):
    cell = tiny.make_cell(strategy, heads=heads)
    model = classifier("nt_v2_nano", tiny.CLASSES)
    plan = audit.blueprint(model)
    APPLY[strategy](model, cell)
    found = audit.inspect(model, cell, plan)
    assert set(found.trainable) == audit.promised(cell, plan)
    assert found.trainable_parameters == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize(("strategy", "heads"), ALL)
def test_exactly_the_promised_tensors_change_in_a_step(strategy, heads):
    cell = tiny.make_cell(strategy, heads=heads)
    torch.manual_seed(0)
    model = classifier("nt_v2_nano", tiny.CLASSES)
    plan = audit.blueprint(model)
    APPLY[strategy](model, cell)
    promised = audit.promised(cell, plan)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        ids = torch.tensor([[3, 10, 20, 30], [3, 40, 50, 60]])
        sum(level.pow(2).sum() for level in model(ids, None)).backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    never_read = {n for n in promised if "position_embeddings" in n or "contact_head" in n}
    never_read |= {n for n in promised if ".lm_head." in n}
    assert changed == promised - never_read


def test_a_frozen_head_where_a_trained_one_was_promised_is_named():
    cell = tiny.make_cell("lora")
    model = classifier("nt_v2_nano", tiny.CLASSES)
    plan = audit.blueprint(model)
    APPLY["lora"](model, cell)
    model.heads["genus"].bias.requires_grad_(False)
    with pytest.raises(
        audit.AuditError, match=r"should train but does not: \['heads\.genus\.bias'\]"
    ):
        audit.inspect(model, cell, plan)


def test_targets_that_match_the_wrong_number_of_modules_are_refused():
    cell = tiny.make_cell("lora")
    plan = audit.blueprint(classifier("nt_v2_nano", tiny.CLASSES))
    fewer = audit.Blueprint(plan.sizes, tuple(m for m in plan.modules if ".layer.1." not in m))
    with pytest.raises(audit.AuditError, match="match 2 modules, its row says 4"):
        audit.promised(cell, fewer)


@pytest.mark.parametrize(
    ("backbone", "strategy", "rank", "expected"),
    [
        ("nt_v2_50m", "lora", 1, 24_576),
        ("nt_v2_50m", "lora", 4, 98_304),
        ("nt_v2_50m", "lora", 20, 491_520),
        ("nt_v2_50m", "ia3", None, 18_432),
        ("nt_v2_250m", "lora", 1, 73_728),
    ],
)
def test_published_counts_of_adapters_with_frozen_heads(backbone, strategy, rank, expected):
    with torch.device("meta"):
        model = classifier(backbone, PAPER_CLASSES)
        cell = paper_cell(backbone, strategy, heads="frozen", rank=rank)
        plan = audit.blueprint(model)
        APPLY[strategy](model, cell)
    assert audit.inspect(model, cell, plan).trainable_parameters == expected


@pytest.mark.parametrize(
    ("backbone", "total", "percent", "last_frozen"),
    [
        ("nt_v2_50m", 56_902_757, 22.52, "layer.9.intermediate.dense.weight"),
        ("nt_v2_100m", 98_886_917, 24.64, "layer.16.output.dense.weight"),
        ("nt_v2_250m", 236_616_485, 23.17, "layer.18.intermediate.dense.weight"),
    ],
)
def test_published_boundary_of_frozen75(backbone, total, percent, last_frozen):
    with torch.device("meta"):
        model = classifier(backbone, PAPER_CLASSES)
    cell = paper_cell(backbone, "frozen75", heads="trained")
    plan = audit.blueprint(model)
    APPLY["frozen75"](model, cell)
    found = audit.inspect(model, cell, plan)
    assert found.total_parameters == total
    assert round(100 * found.trainable_parameters / total, 2) == percent
    frozen = [name for name in plan.sizes if name not in found.trainable]
    assert frozen[-1].endswith(last_frozen)


def test_a_digest_sees_names_and_bytes():
    ones, zeros = torch.ones(2), torch.zeros(2)
    assert audit.digest([("a", ones), ("b", zeros)]) == audit.digest([("b", zeros), ("a", ones)])
    assert audit.digest([("a", ones)]) != audit.digest([("a", zeros)])
    assert audit.digest([("a", ones)]) != audit.digest([("b", ones)])
