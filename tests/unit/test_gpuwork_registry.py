from __future__ import annotations

import re
import subprocess
import sys

import pytest

from gpuwork.registry import BACKBONES, STRATEGIES, TASKS

TABLES = {"task": TASKS, "backbone": BACKBONES, "strategy": STRATEGIES}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_are_found_under_their_own_names(table):
    assert all(name == row.name for name, row in table.items())
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in table)  # part of ids and paths


def test_the_taxonomy_levels_run_from_coarse_to_fine():
    assert TASKS["taxonomy"].levels == ("superkingdom", "phylum", "genus")


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_a_backbone_is_possible(row):
    assert row.width % (2 * row.heads) == 0
    assert 0 <= row.pad_id < row.vocabulary
    assert 0 <= row.mask_id < row.vocabulary
    assert row.pad_id != row.mask_id
    assert (row.hub_id is None) == (row.name == "nt_v2_nano")


def test_published_sizes_and_settings():
    published = {
        name: (row.parameters, row.published_learning_rate, row.published_batch)
        for name, row in BACKBONES.items()
        if row.hub_id is not None
    }
    assert published == {
        "nt_v2_50m": (55_904_972, 2e-4, 128),
        "nt_v2_100m": (97_889_132, 1e-4, 64),
        "nt_v2_250m": (235_120_780, 1e-4, 64),
        "dnabert2": (117_068_544, 2.5e-5, 64),
        "dnabert_s": (117_068_544, 2.5e-5, 64),
    }


def nucleotide_transformer_names(row):
    for layer in range(row.layers):
        stem = f"backbone.esm.encoder.layer.{layer}"
        for inner in ("query", "key", "value"):
            yield f"{stem}.attention.self.{inner}"
        yield from (f"{stem}.{x}.dense" for x in ("attention.output", "intermediate", "output"))


def mosaic_bert_names(row):
    for layer in range(row.layers):
        stem = f"backbone.bert.encoder.layer.{layer}"
        inner = ("attention.self.Wqkv", "attention.output.dense", "mlp.gated_layers", "mlp.wo")
        yield from (f"{stem}.{x}" for x in inner)


NAMES = {
    "nucleotide_transformer": nucleotide_transformer_names,
    "mosaic_bert": mosaic_bert_names,
}
OUTSIDE = ("backbone.lm_head.dense", "backbone.bert.pooler.dense", "heads.genus")


@pytest.mark.parametrize("row", BACKBONES.values(), ids=BACKBONES)
def test_adapter_targets_match_as_many_modules_as_the_row_counts(row):
    names = [*NAMES[row.architecture](row), *OUTSIDE]

    def matched(pattern):
        return {name for name in names if re.fullmatch(pattern, name)}

    assert len(matched(row.lora_targets)) == row.lora_modules
    assert len(matched(row.ia3_targets)) == row.ia3_modules
    assert matched(row.ia3_feedforward) < matched(row.ia3_targets)
    assert not matched(row.lora_targets) & set(OUTSIDE)


def test_what_a_strategy_has_fits_together():
    for row in STRATEGIES.values():
        assert not row.has_rank or row.is_adapter
        assert ("frozen" in row.heads) == row.is_adapter
        assert "trained" in row.heads


def test_tables_cells_layouts_and_paths_need_no_heavy_library():
    code = (
        "import sys, gpuwork.registry, gpuwork.spec, gpuwork.schema, gpuwork.workspace;"
        "heavy = {'torch', 'transformers', 'peft', 'pynvml', 'safetensors'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
