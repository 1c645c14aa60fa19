from __future__ import annotations

import pytest
import torch
from torch import nn

from gpuwork.backbones import build
from gpuwork.model import Classifier
from gpuwork.registry import BACKBONES, STRATEGIES
from gpuwork.strategies import APPLY
from tests import tiny


def nano() -> Classifier:
    torch.manual_seed(0)
    row = BACKBONES["nt_v2_nano"]
    return Classifier(build(row), width=row.width, classes=tiny.CLASSES)


def trainable(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model: Classifier) -> torch.Tensor:
    model.eval()
    return torch.cat(model(torch.tensor([[3, 10, 20, 30]]), None), dim=1)


def test_every_row_of_the_table_has_a_function():
    assert set(APPLY) == set(STRATEGIES)


@pytest.mark.parametrize("strategy", ["full", "frozen75", "head_only", "lora", "ia3"])
def test_a_strategy_starts_from_the_checkpoint(strategy):
    before, model = nano(), nano()
    APPLY[strategy](model, tiny.make_cell(strategy))
    assert torch.equal(logits(before), logits(model))


def test_random_init_forgets_the_checkpoint():
    before, model = nano(), nano()
    with torch.no_grad():
        before.backbone.esm.encoder.emb_layer_norm_after.weight.fill_(7.0)
    model.load_state_dict(before.state_dict())
    APPLY["random_init"](model, tiny.make_cell("random_init"))
    state = model.state_dict()
    assert torch.all(state["backbone.esm.encoder.emb_layer_norm_after.weight"] == 1)
    assert torch.all(state["heads.genus.bias"] == 0)
    changed = "backbone.esm.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before.state_dict()[changed], state[changed])
    drawn = state["backbone.esm.embeddings.word_embeddings.weight"]
    assert abs(drawn.mean()) < 1e-3
    assert abs(drawn.std() - 0.02) < 1e-3


def test_frozen75_freezes_a_prefix_of_at_least_three_quarters():
    model = nano()
    APPLY["frozen75"](model, tiny.make_cell("frozen75"))
    flags = [parameter.requires_grad for parameter in model.parameters()]
    sizes = [parameter.numel() for parameter in model.parameters()]
    cut = flags.index(True)
    assert all(flags[cut:])
    assert sum(sizes[:cut]) >= 0.75 * sum(sizes) > sum(sizes[: cut - 1])


@pytest.mark.parametrize("heads", ["trained", "frozen"])
def test_lora_adds_two_factors_to_query_and_value(heads):
    model = nano()
    APPLY["lora"](model, tiny.make_cell("lora", heads=heads))
    found = trainable(model)
    adapters = {name for name in found if "lora_" in name}
    assert len(adapters) == 2 * 2 * 2
    assert found - adapters == (
        {f"heads.{level}.{part}" for level in tiny.CLASSES for part in ("weight", "bias")}
        if heads == "trained"
        else set()
    )
    query = model.backbone.esm.encoder.layer[0].attention.self.query
    assert query.lora_A["default"].weight.shape == (2, 64)
    assert query.scaling["default"] == 2.0


def test_ia3_scales_query_value_and_attention_output():
    model = nano()
    APPLY["ia3"](model, tiny.make_cell("ia3", heads="frozen"))
    found = trainable(model)
    assert len(found) == 3 * 2
    assert sum(model.get_parameter(name).numel() for name in found) == 3 * 64 * 2
    assert model.backbone.esm.encoder.layer[0].attention.output.dense.is_feedforward
