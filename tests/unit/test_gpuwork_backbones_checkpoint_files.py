from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpuwork.backbones import CheckpointError, build, checkpoint_files, load, save
from gpuwork.backbones.checkpoint_files import load_strict
from gpuwork.backbones.nucleotide_transformer import Config, NucleotideTransformer
from gpuwork.registry import BACKBONES

NANO = BACKBONES["nt_v2_nano"]
LOOSE = dataclasses.replace(NANO, tied_decoder=False, parameters=NANO.parameters + 4107 * 64)
EMBEDDING = "esm.embeddings.word_embeddings.weight"
DECODER = "lm_head.decoder.weight"
QUERY = "esm.encoder.layer.1.attention.self.query.weight"
FREQUENCIES = "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq"
UNUSED = (
    "esm.embeddings.position_embeddings.weight",
    "esm.contact_head.regression.weight",
    "esm.contact_head.regression.bias",
)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of the nano backbone."""
    torch.manual_seed(1)
    save(build(NANO), NANO, tmp_path)
    return tmp_path


def rewrite(folder, **changes):
    """Replace tensors of a checkpoint; None removes one."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors[name] = tensor
        if tensor is None:
            del tensors[name]
    save_file(tensors, path)


def refusal(folder, row=NANO):
    with pytest.raises(CheckpointError) as caught:
        load(row, folder)
    return str(caught.value)


def assert_same(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    for (name, tensor), (other_name, other) in pairs:
        assert name == other_name
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize("row", [NANO, LOOSE], ids=["tied", "untied"])
def test_what_is_saved_is_loaded_and_the_digest_is_the_files(row, tmp_path):
    model = build(row)
    written = save(model, row, tmp_path)
    loaded, digest = load(row, tmp_path)
    assert_same(loaded, model)
    content = (tmp_path / "model.safetensors").read_bytes()
    assert written == digest == hashlib.sha256(content).hexdigest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    stored = load_file(tmp_path / "model.safetensors")
    assert (DECODER in stored) is not row.tied_decoder
    assert sum("inv_freq" in name for name in stored) == row.layers
    assert Config.read(tmp_path / "config.json") == model.config


def test_a_published_file_is_loaded_whole(shared, tmp_path):
    golden = shared / "golden" / "nt_v2_small"
    shutil.copyfile(golden / "weights.safetensors", tmp_path / "model.safetensors")
    model = NucleotideTransformer(Config.read(golden / "config.json"))
    load_strict(model, tmp_path, unused=model.unused_tensors(), constants=model.constants())
    stored = load_file(golden / "weights.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name]), name


def test_the_pickled_form_is_read_where_there_is_no_other(folder):
    expected, _ = load(NANO, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path)
    loaded, digest = load(NANO, folder)
    assert_same(loaded, expected)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_tensors_without_effect_may_be_absent(folder):
    expected, _ = load(NANO, folder)
    rewrite(folder, **dict.fromkeys((*UNUSED, FREQUENCIES)))
    loaded, _ = load(NANO, folder)
    assert loaded.unused_tensors() == set(UNUSED)
    for name, parameter in loaded.named_parameters():
        if name not in UNUSED:
            assert torch.equal(parameter, expected.get_parameter(name)), name


def test_a_tied_decoder_may_be_stored_too_but_only_as_it_is(folder):
    expected, _ = load(NANO, folder)
    rewrite(folder, **{DECODER: expected.get_parameter(EMBEDDING).detach().clone()})
    loaded, _ = load(NANO, folder)
    assert_same(loaded, expected)
    rewrite(folder, **{DECODER: torch.zeros(4107, 64)})
    assert f"not tied: {DECODER} is not {EMBEDDING}" in refusal(folder)


def test_everything_wrong_is_told_at_once_and_nothing_is_loaded(folder):
    rewrite(
        folder,
        **{
            QUERY: None,
            "lm_head.dense.bias": None,
            "esm.pooler.dense.weight": torch.zeros(2),
            "lm_head.bias": torch.zeros(4105),
            "lm_head.dense.weight": torch.zeros(64, 64, dtype=torch.float16),
        },
    )
    message = refusal(folder)
    assert f"missing: {QUERY}, lm_head.dense.bias;" in message
    assert "extra: esm.pooler.dense.weight;" in message
    assert "lm_head.bias is (4105,) of torch.float32, expected (4107,) of torch.float32" in message
    assert "lm_head.dense.weight is (64, 64) of torch.float16" in message
    model = build(NANO)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_strict(model, folder, unused=model.unused_tensors(), constants=model.constants())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_other_rotary_frequencies_are_refused(folder):
    rewrite(folder, **{FREQUENCIES: build(NANO).constants()[FREQUENCIES] * 1.001})
    assert f"not the values of the formula: {FREQUENCIES}" in refusal(folder)


def test_a_prefixed_checkpoint_is_not_half_loaded(folder):
    path = folder / "model.safetensors"
    save_file({f"model.{name}": tensor for name, tensor in load_file(path).items()}, path)
    message = refusal(folder)
    assert EMBEDDING in message
    assert f"model.{EMBEDDING}" in message


def test_the_config_must_be_that_of_the_row(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_eps": 1e-5}))
    assert "describes another model: layer_norm_eps is 1e-05, not 1e-12" in refusal(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [("config.json", "no config.json there for backbone nt_v2_nano"), ("model.safetensors", "no")],
)
def test_a_missing_file_says_what_makes_it(folder, name, told):
    (folder / name).unlink()
    message = refusal(folder)
    assert str(folder) in message
    assert told in message
    assert "run `make models" in message


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("length", [0, 5, 1000, -7])
def test_a_truncated_file_is_refused(folder, name, length):
    source = folder / "model.safetensors"
    if name.endswith(".bin"):
        torch.save(load_file(source), folder / name)
        source.unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:length])
    assert f"{folder / name}: cannot be read" in refusal(folder)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was executed')",))


def test_a_pickle_with_code_in_it_is_not_executed(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Trap()}, protocol=2))
    assert "cannot be read" in refusal(folder)


def test_a_pickle_of_something_else_is_refused(folder):
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    assert "is no mapping of names to tensors" in refusal(folder)


def test_a_save_that_fails_leaves_the_old_checkpoint_and_nothing_else(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    strided = torch.zeros(3, 2).t()  # safetensors refuses it, after config.json was written
    with pytest.raises(ValueError, match="contiguous"):
        checkpoint_files.save(build(NANO), folder, config={}, constants={"strided": strided})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_model_of_another_shape_is_not_saved_under_a_row(tmp_path):
    with pytest.raises(CheckpointError, match="the model is not a nt_v2_nano"):
        save(build(LOOSE), NANO, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_row_with_another_count_than_its_shape_has_is_refused():
    with pytest.raises(CheckpointError, match="has 358420 parameters, its row says 358419"):
        build(dataclasses.replace(NANO, parameters=NANO.parameters - 1))


def test_an_architecture_that_is_not_there_names_those_that_are():
    row = dataclasses.replace(NANO, architecture="transformer_xl")
    with pytest.raises(CheckpointError, match="there is: nucleotide_transformer"):
        build(row)
