from __future__ import annotations

import dataclasses
import importlib.util
import json
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn

from gpuwork.backbones import CheckpointError, build, load, save
from gpuwork.backbones.nucleotide_transformer import Config, NucleotideTransformer, initialize
from gpuwork.registry import BACKBONES

GOLDEN = ("nt_v2_small", "nt_v2_small_bias_ln_td")
ROWS = [row for row in BACKBONES.values() if row.architecture == "nucleotide_transformer"]
HIDDEN = {"f64": 1e-12, "f32": 2e-5}
LOGITS = {"f64": 1e-12, "f32": 1e-4}
DTYPES = {"f64": torch.float64, "f32": torch.float32}
TINY = Config(
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=8,
    mask_token_id=2,
    pad_token_id=1,
)


def assert_within(found, expected, *, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= tolerance


def golden_model(folder, precision):
    """The golden model; the constants of its checkpoint are the formula's to the bit."""
    model = NucleotideTransformer(Config.read(folder / "config.json"))
    weights = load_file(folder / "weights.safetensors")
    for name, value in model.constants().items():
        assert torch.equal(weights.pop(name), value)
    model.load_state_dict(weights)
    return model.to(DTYPES[precision])


@pytest.fixture(params=GOLDEN)
def folder(request, shared):
    return shared / "golden" / request.param


@pytest.fixture(params=("f32", "f64"))
def precision(request):
    return request.param


@pytest.fixture
def golden(folder, precision):
    expected = load_file(folder / "expected.safetensors")
    return golden_model(folder, precision), expected, precision


def test_names_shapes_and_count_are_the_published_ones(folder):
    model = NucleotideTransformer(Config.read(folder / "config.json"))
    meta = json.loads((folder / "meta.json").read_text())
    named = {**model.state_dict(), **model.constants()}
    assert {name: list(tensor.shape) for name, tensor in named.items()} == meta["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == meta["params"]


@torch.no_grad()
def test_hidden_states_match_the_reference_however_rows_are_padded(golden):
    model, expected, precision = golden
    ids, mask = expected["input_ids"], expected["attention_mask"]
    cases = {
        "last_hidden_state": model(ids, mask),
        "last_hidden_state_leftpad": model(
            expected["input_ids_leftpad"], expected["attention_mask_leftpad"].bool()
        ),
        "last_hidden_state_row0_alone": model(ids[:1], mask[:1]),
        "last_hidden_state_row1_unpadded": model(ids[1:2, : mask[1].sum()]),
        "none_mask_row0": model(ids[:1]),
    }
    for name, found in cases.items():
        assert_within(found, expected[f"{name}.{precision}"], tolerance=HIDDEN[precision])


@torch.no_grad()
def test_every_layer_matches_the_reference(golden):
    model, expected, precision = golden
    states = []
    encoder = model.esm["encoder"]
    inner = [model.esm["embeddings"], *encoder.layer[:-1], encoder.emb_layer_norm_after]
    for module in inner:
        module.register_forward_hook(lambda _module, _inputs, output: states.append(output))
    model(expected["input_ids"], expected["attention_mask"])
    assert len(states) == 3
    for index, state in enumerate(states):
        reference = expected[f"hidden_states.{index}.{precision}"]
        assert_within(state, reference, tolerance=HIDDEN[precision])


@torch.no_grad()
def test_masked_language_logits_and_loss_match_the_reference(golden):
    model, expected, precision = golden
    hidden = model(expected["input_ids"], expected["attention_mask"])
    logits = model.masked_language_logits(hidden)
    assert_within(logits, expected[f"logits.{precision}"], tolerance=LOGITS[precision])
    loss = F.cross_entropy(logits.flatten(0, 1), expected["labels"].flatten(), ignore_index=-100)
    assert_within(loss[None], expected[f"mlm_loss.{precision}"], tolerance=LOGITS[precision])


def test_gradients_match_the_reference_and_unused_tensors_have_none(folder):
    model = golden_model(folder, "f64")
    expected = load_file(folder / "expected.safetensors")
    hidden = model(expected["input_ids"], expected["attention_mask"])
    (hidden * expected["cotangent"]).sum().backward()
    reference = load_file(folder / "grads_f64.safetensors")
    without = json.loads((folder / "meta.json").read_text())["params_without_grad_from_encoder"]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == reference.keys()
    assert set(without) == {name for name, _ in model.named_parameters()} - found.keys()
    for name, gradient in found.items():
        scale = max(1.0, reference[name].abs().max().item())
        assert_within(gradient, reference[name], tolerance=1e-12 * scale)


def test_tables_follow_the_dtype_of_each_call(folder):
    expected = load_file(folder / "expected.safetensors")
    model = golden_model(folder, "f32")
    ids, mask = expected["input_ids"], expected["attention_mask"]
    with torch.inference_mode():
        first = model(ids, mask)
    with torch.no_grad():
        assert_within(model.double()(ids, mask), expected["last_hidden_state.f64"], tolerance=1e-12)
    again = model.float()(ids, mask)
    assert torch.equal(again, first)
    again.sum().backward()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_row_tells_the_number_of_parameters(row):
    with torch.device("meta"):
        model = build(row)
        hidden = model(torch.ones(2, 5, dtype=torch.int64), None)
    assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters
    assert hidden.shape == (2, 5, row.width)


@pytest.mark.parametrize(
    ("name", "total", "last_frozen", "trainable_percent"),
    [
        ("nt_v2_50m", 56_902_757, "layer.9.intermediate.dense.weight", 22.52),
        ("nt_v2_100m", 98_886_917, "layer.16.output.dense.weight", 24.64),
        ("nt_v2_250m", 236_616_485, "layer.18.intermediate.dense.weight", 23.17),
    ],
)
def test_registration_order_puts_three_quarters_where_published(
    name, total, last_frozen, trainable_percent
):
    with torch.device("meta"):
        model = build(BACKBONES[name])
        width = BACKBONES[name].width
        model.heads = nn.ModuleList(nn.Linear(width, classes) for classes in (4, 57, 1884))
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    assert sum(sizes.values()) == total
    ends = zip(sizes, accumulate(sizes.values()), strict=True)
    last, frozen = next((name, end) for name, end in ends if end >= 0.75 * total)
    assert last == f"esm.encoder.{last_frozen}"
    assert round(100 * (1 - frozen / total), 2) == trainable_percent


@pytest.fixture(scope="module")
def recipe(shared):
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden" / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["nt_v2_50m", "nt_v2_100m"])
def test_published_shapes_match_the_reference_through_a_file(name, shared, recipe, tmp_path):
    folder = shared / "golden" / f"{name}_random"
    meta = json.loads((folder / "meta.json").read_text())
    model = build(BACKBONES[name])
    assert model.config == Config.read(folder / "config.json")
    recipe.fill(model, folder.name)
    for key in ("lm_head.bias", "esm.encoder.layer.3.attention.self.query.weight"):
        assert recipe.tsha(model.get_parameter(key)) == meta["weight_sha256"][key]
    save(model, BACKBONES[name], tmp_path)
    weights = tmp_path / "model.safetensors"
    if name == "nt_v2_50m":
        assert weights.stat().st_size == 223_642_688  # as published on the hub
    model, _ = load(BACKBONES[name], tmp_path)
    weights.unlink()

    expected = load_file(folder / "expected.safetensors")
    ids, mask = expected["input_ids"], expected["attention_mask"]
    middle = []
    layer = model.esm["encoder"].layer[meta["mid_layer"] - 1]
    layer.register_forward_hook(lambda _module, _inputs, output: middle.append(output))
    for precision, dtype in DTYPES.items():
        with torch.inference_mode():
            hidden = model.to(dtype)(ids, mask)
            logits = model.masked_language_logits(hidden[:, :4])[..., :16]
        norms, projections = recipe.proj(hidden, mask, folder.name)
        found = {
            "hidden_slice[:, :4, :16]": hidden[:, :4, :16],
            "token_norms": norms,
            "token_proj8": projections,
            "mid_layer_proj8": recipe.proj(middle.pop(), mask, folder.name)[1],
        }
        for key, value in found.items():
            reference = expected[f"{key}.{precision}"]
            scale = max(1.0, reference.abs().max().item())
            assert_within(value, reference, tolerance=HIDDEN[precision] * scale)
        reference = expected[f"logits_slice[:, :4, :16].{precision}"]
        assert_within(logits, reference, tolerance=LOGITS[precision])


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    left=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@torch.no_grad()
def test_real_tokens_do_not_see_padding_or_neighbors(lengths, left, seed):
    torch.manual_seed(seed)
    model = NucleotideTransformer(TINY).double()
    longest = max(lengths) + 1
    ids = torch.randint(0, TINY.vocab_size, (len(lengths), longest))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    if left:
        mask = mask.flip(1)
    together = model(ids, mask)
    for row, real in enumerate(mask):
        alone = model(ids[row, real][None])
        assert_within(together[row, real][None], alone, tolerance=1e-13)


@pytest.mark.parametrize("token_dropout", [False, True])
@torch.no_grad()
def test_a_row_of_padding_alone_is_finite_and_harms_no_other(token_dropout):
    torch.manual_seed(0)
    model = NucleotideTransformer(dataclasses.replace(TINY, token_dropout=token_dropout))
    ids = torch.tensor([[3, 7, 8], [1, 1, 1]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    found = model(ids, mask)
    assert found.isfinite().all()
    assert_within(found[:1], model(ids[:1], mask[:1]), tolerance=1e-6)


def test_bfloat16_autocast_keeps_the_residual_stream_in_float32():
    torch.manual_seed(0)
    model = NucleotideTransformer(TINY)
    ids = torch.randint(0, TINY.vocab_size, (3, 40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(ids)
    assert found.dtype == torch.float32
    assert_within(found, model(ids), tolerance=0.1)


def test_a_tied_decoder_is_one_tensor():
    tied = NucleotideTransformer(dataclasses.replace(TINY, tie_word_embeddings=True))
    loose = NucleotideTransformer(TINY)
    decoder = tied.get_parameter("lm_head.decoder.weight")
    assert decoder is tied.get_parameter("esm.embeddings.word_embeddings.weight")
    counts = [sum(p.numel() for p in model.parameters()) for model in (loose, tied)]
    assert counts[0] - counts[1] == TINY.vocab_size * TINY.hidden_size
    assert tied.state_dict().keys() == loose.state_dict().keys()


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.parametrize("row", ROWS[:2], ids=lambda row: row.name)
def test_adapters_match_the_modules_that_the_row_counts(row, kind):
    model = nn.ModuleDict({"backbone": build(row)})
    ids = torch.randint(0, row.vocabulary, (2, 7))
    with torch.no_grad():
        before = model["backbone"](ids)
    config, mark, expected = {
        "lora": (LoraConfig(r=2, target_modules=row.lora_targets), "lora_B", row.lora_modules),
        "ia3": (
            IA3Config(target_modules=row.ia3_targets, feedforward_modules=row.ia3_feedforward),
            "ia3_l",
            row.ia3_modules,
        ),
    }[kind]
    inject_adapter_in_model(config, model)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sum(mark in name for name in trained) == expected
    hidden = model["backbone"](ids)
    assert_within(hidden.detach(), before, tolerance=1e-6)  # adapters start as the identity
    hidden.sum().backward()
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_a_fresh_model_follows_the_published_rule():
    torch.manual_seed(0)
    model = build(BACKBONES["nt_v2_nano"])
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.numel() > 2000:
            assert abs(module.weight.std().item() - 0.02) < 0.001, name
            assert abs(module.weight.mean().item()) < 0.001, name
        if isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            assert (module.bias == 0).all()
    assert (model.lm_head.bias == 0).all()


def test_a_generator_decides_the_start():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    for layer in (first, second):
        initialize(layer, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first.weight, second.weight)


def write_config(tmp_path, **changes):
    path = tmp_path / "config.json"
    entries = {**TINY.published(), "torch_dtype": "float32", "auto_map": {}, **changes}
    path.write_text(json.dumps({n: v for n, v in entries.items() if v != "left out"}))
    return path


def test_a_config_survives_the_file(tmp_path):
    assert Config.read(write_config(tmp_path)) == TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "absolute"}, "is 'absolute', implemented: 'rotary'"),
        ({"position_embedding_type": "left out"}, "position_embedding_type is 'absent'"),
        ({"hidden_dropout_prob": 0.1}, "hidden_dropout_prob is 0.1, implemented: 0.0"),
        ({"is_folding_model": True}, "is_folding_model is True"),
        ({"token_dropout": "left out"}, "token_dropout is 'absent', expected bool"),
        ({"hidden_size": "16"}, "hidden_size is '16', expected int"),
        ({"hidden_size": 18, "num_attention_heads": 6}, "6 heads of even width"),
    ],
)
def test_a_config_that_would_change_the_arithmetic_is_refused(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        Config.read(write_config(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        Config.read(path)
