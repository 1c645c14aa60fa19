from __future__ import annotations

import numpy as np
import pytest
import torch

from gpuwork.backbones import load
from gpuwork.data import open_dataset
from gpuwork.pretrain import IGNORED, Pretraining, main, masked_batch, pretrain
from gpuwork.registry import BACKBONES
from gpuwork.workspace import Workspace
from tests import tiny

NANO = BACKBONES["nt_v2_nano"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("pretrain"))
    tiny.write_corpus(place)
    return open_dataset(place, corpus="tiny", tokenizer="nt_v2", levels=tuple(tiny.CLASSES))


def test_masks_replaces_and_keeps_in_the_shares_of_the_rule(dataset):
    rng = np.random.default_rng(0)
    rows = np.tile(dataset.rows["train"], 40)
    ids, targets, mask = masked_batch(dataset, rows, NANO, Pretraining(), rng)
    asked = targets != IGNORED
    real = mask.clone()
    real[:, 0] = False
    assert not asked[~real].any()
    assert abs(asked.sum() / real.sum() - Pretraining().masked_share) < 0.02
    is_mask, is_kept = ids[asked] == NANO.mask_id, ids[asked] == targets[asked]
    assert abs(is_mask.float().mean() - 0.8) < 0.02
    assert abs(is_kept.float().mean() - 0.1) < 0.02
    assert torch.equal(ids[~asked & mask], torch.from_numpy(original(dataset, rows))[~asked & mask])


def original(dataset, rows):
    from gpuwork.data import collate

    return collate(dataset, rows, max_tokens=64, pad_id=NANO.pad_id).input_ids.numpy()


def test_the_loss_falls_and_the_same_rule_gives_the_same_weights(dataset, capsys):
    rule = Pretraining(steps=40, batch=16)
    first, second = pretrain(NANO, dataset, rule), pretrain(NANO, dataset, rule)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    said = capsys.readouterr().out.split("loss ")[1].split()
    assert float(said[0]) > float(said[2]) + 0.5


def test_the_command_writes_a_checkpoint_that_loads(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "work")
    tiny.write_corpus(workspace)
    monkeypatch.setattr("gpuwork.pretrain.Pretraining", lambda: Pretraining(steps=2, batch=4))
    site = tmp_path / "site.toml"
    site.touch()
    assert main(["nt_v2_nano", "--corpus", "tiny", "--site", str(site)]) == 0
    module, digest = load(NANO, workspace.model("nt_v2_nano"))
    assert sum(p.numel() for p in module.parameters()) == NANO.parameters
    assert len(digest) == 64


def test_a_missing_corpus_is_an_error_in_one_line(tmp_path, capsys):
    site = tmp_path / "site.toml"
    site.touch()
    assert main(["nt_v2_nano", "--corpus", "absent", "--site", str(site)]) == 2
    assert "absent.h5: no such file" in capsys.readouterr().err.replace("\n", "")
