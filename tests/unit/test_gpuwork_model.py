from __future__ import annotations

import math

import torch
from torch import nn

from gpuwork.model import Classifier, masked_mean, summed_cross_entropy


class Echo(nn.Module):
    """A backbone whose hidden state of a token is (id, 1)."""

    def forward(self, input_ids, attention_mask):
        return torch.stack([input_ids.float(), torch.ones(input_ids.shape)], dim=-1)


def test_the_mean_is_over_real_tokens_alone():
    hidden = torch.tensor([[[2.0], [4.0], [90.0]], [[1.0], [5.0], [6.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert masked_mean(hidden, mask).tolist() == [[3.0], [4.0]]
    assert masked_mean(hidden, None).tolist() == [[32.0], [4.0]]


def test_cross_entropy_is_summed_over_rows_and_levels():
    even = torch.zeros(2, 4)
    sure = torch.tensor([[0.0, math.log(3.0)], [math.log(3.0), 0.0]])
    labels = torch.tensor([[1, 1], [3, 1]])
    expected = 2 * math.log(4) + math.log(4 / 3) + math.log(4)
    assert math.isclose(summed_cross_entropy([even, sure], labels).item(), expected, rel_tol=1e-6)


def test_each_level_has_a_head_on_the_same_pooled_state():
    model = Classifier(Echo(), width=2, classes={"coarse": 2, "fine": 3})
    with torch.no_grad():
        for head in model.heads.values():
            head.weight.copy_(torch.ones_like(head.weight))
            head.bias.zero_()
    logits = model(torch.tensor([[1, 2, 3]]), None)
    assert [level.tolist() for level in logits] == [[[3.0, 3.0]], [[3.0, 3.0, 3.0]]]


def test_heads_stay_in_float32_under_autocast():
    model = Classifier(Echo(), width=2, classes={"only": 2})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.tensor([[1, 2]]), None)
    assert logits[0].dtype == torch.float32
