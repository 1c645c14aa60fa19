"""Short masked-language training of a backbone that has no published weights (the demo's).

`python -m gpuwork.pretrain BACKBONE --corpus NAME`
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor

from gpuwork.backbones import build, save
from gpuwork.backbones.nucleotide_transformer import NucleotideTransformer
from gpuwork.data import Dataset, Ints, collate, open_dataset
from gpuwork.registry import BACKBONES, TASKS, Backbone
from gpuwork.schema import SchemaError
from gpuwork.workspace import Workspace

CONSOLE = Console()
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Pretraining:
    """Masked-language training (Devlin et al. 2018).

    Of the tokens asked for, 80 % are masked, 10 % replaced by another, 10 % left as they are.
    """

    steps: int = 600
    batch: int = 32
    learning_rate: float = 5e-3
    masked_share: float = 0.3
    max_tokens: int = 64
    seed: int = 0


def pretrain(backbone: Backbone, dataset: Dataset, rule: Pretraining) -> NucleotideTransformer:
    """Train a fresh backbone on the training split's tokens; labels are not looked at."""
    torch.manual_seed(rule.seed)
    model = build(backbone)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rule.learning_rate, weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rule.learning_rate, total_steps=rule.steps, pct_start=0.1
    )
    rng = np.random.default_rng(rule.seed)
    losses = []
    for _ in track(range(rule.steps), description=f"training {backbone.name}", console=CONSOLE):
        known = dataset.rows["train"]
        rows = rng.choice(known, size=min(rule.batch, len(known)), replace=False)
        ids, targets, mask = masked_batch(dataset, rows, backbone, rule, rng)
        asked = targets != IGNORED
        logits = model.masked_language_logits(model(ids, mask)[asked])
        loss = F.cross_entropy(logits, targets[asked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    first, last = np.mean(losses[:20]), np.mean(losses[-20:])
    CONSOLE.print(f"masked-language loss {first:.3f} -> {last:.3f} nats over {rule.steps} steps")
    return model


def masked_batch(
    dataset: Dataset, rows: Ints, backbone: Backbone, rule: Pretraining, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Corrupted ids (B, T), targets (B, T) with -100 where nothing is asked, and the mask."""
    batch = collate(dataset, rows, max_tokens=rule.max_tokens, pad_id=backbone.pad_id)
    ids = batch.input_ids.numpy().copy()
    real = np.ones(ids.shape, dtype=bool)
    if batch.attention_mask is not None:
        real = batch.attention_mask.numpy().copy()
    real[:, 0] = False
    asked = (rng.random(ids.shape) < rule.masked_share) & real
    targets = np.where(asked, ids, IGNORED)
    chance = rng.random(ids.shape)
    random_ids = rng.integers(backbone.mask_id + 1, backbone.vocabulary, size=ids.shape)
    ids[asked & (chance < 0.8)] = backbone.mask_id
    replaced = asked & (chance >= 0.9)
    ids[replaced] = random_ids[replaced]
    return torch.from_numpy(ids), torch.from_numpy(targets), batch.attention_mask


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m gpuwork.pretrain", description=__doc__)
    parser.add_argument(
        "backbone", choices=[b.name for b in BACKBONES.values() if b.hub_id is None]
    )
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--site", type=Path, default=Path("site.toml"))
    args = parser.parse_args(argv)
    workspace = Workspace.locate(args.site)
    backbone = BACKBONES[args.backbone]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        dataset = open_dataset(
            workspace,
            corpus=args.corpus,
            tokenizer=backbone.tokenizer,
            levels=TASKS["taxonomy"].levels,
        )
        model = pretrain(backbone, dataset, Pretraining())
        digest = save(model, backbone, workspace.model(backbone.name))
    except (SchemaError, OSError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        return 2
    CONSOLE.print(f"{workspace.model(backbone.name)}: weights {digest[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
