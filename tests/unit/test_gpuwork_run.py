from __future__ import annotations

import h5py
import numpy as np
import pytest

from gpuwork import schema
from gpuwork.run import RunError, run
from gpuwork.spec import Execution, cell_from_json, cell_id
from tests import tiny


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tiny.make_workspace(tmp_path_factory.mktemp("run"))


def go(workspace, cell, *, study, attempt=0, should_stop=lambda: False):
    return run(
        cell,
        tiny.CPU,
        workspace=workspace,
        study=study,
        attempt=attempt,
        should_stop=should_stop,
        on_progress=lambda _: None,
    )


def timeless(path):
    """Everything in a result that the science defines: no clocks, nodes or samples."""
    with h5py.File(path) as file:
        names: list[str] = []
        file["test"].visit(names.append)
        found = {
            f"test/{n}": file[f"test/{n}"][()] for n in names if hasattr(file[f"test/{n}"], "shape")
        }
        for name in (
            "steps/loss",
            "steps/learning_rate",
            "epochs/train_loss",
            "epochs/validation_loss",
        ):
            found[name] = file[name][:]
        found["trained"] = file["provenance"].attrs["trained_sha256"]
        found["best_epoch"] = file.attrs["best_epoch"]
    return found


@pytest.mark.parametrize(
    ("strategy", "heads"),
    [
        ("full", "trained"),
        ("frozen75", "trained"),
        ("head_only", "trained"),
        ("lora", "trained"),
        ("ia3", "frozen"),
    ],
)
def test_an_interrupted_cell_ends_in_the_same_bits(workspace, strategy, heads):
    cell = tiny.make_cell(strategy, heads=heads)
    identity = cell_id(cell)
    assert go(workspace, cell, study="straight")
    for attempt, steps in enumerate((1, 4, 6)):
        asked = iter(range(10_000))
        stop = lambda limit=steps, asked=asked: next(asked) >= limit  # noqa: E731 - two words
        assert not go(workspace, cell, study="stopped", attempt=attempt, should_stop=stop)
        assert not workspace.result("stopped", identity).exists()
    assert go(workspace, cell, study="stopped", attempt=3)
    straight = timeless(workspace.result("straight", identity))
    stopped = timeless(workspace.result("stopped", identity))
    assert straight.keys() == stopped.keys()
    for name, value in straight.items():
        np.testing.assert_array_equal(value, stopped[name], err_msg=name)
    with h5py.File(workspace.result("stopped", identity)) as file:
        assert file["attempts/number"][:].tolist() == [0, 1, 2, 3]
        assert file["attempts/first_step"][:].tolist()[:2] == [0, 2]
    assert not workspace.checkpoint("stopped", identity).exists()


def test_a_result_holds_what_its_layout_says(workspace):
    cell = tiny.make_cell("head_only", learning_rate=2e-3)
    assert go(workspace, cell, study="layout")
    path = workspace.result("layout", cell_id(cell))
    schema.check(path, "result")
    with h5py.File(path) as file:
        import json

        config = json.loads(file["config"].asstr()[0])
        assert cell_from_json(json.dumps(config["cell"])) == cell
        assert config["execution"]["micro_batch"] == 8
        assert file.attrs["trainable_parameters"] == 65 * 9
        assert schema.strings(file["class/phylum"]) == ["phylum-0", "phylum-1", "phylum-2"]
        assert file["epochs/epoch"][:].tolist() == [0, 1, 2]
        assert file["steps/step"].shape == (12,)
        assert file["provenance"].attrs["corpus_sha256"] == tiny.CORPUS_SHA256
        assert file["provenance"].attrs["probe_error"] == "none"
        assert file.attrs["memory_kind"] == "process_rss"
        assert file.attrs["peak_bytes"] > 50_000_000


def test_a_corpus_that_changed_since_the_plan_is_refused(workspace):
    from dataclasses import replace

    cell = replace(tiny.make_cell(), corpus_sha256="0" * 64)
    with pytest.raises(
        RunError, match="is cccccccccccc, but the cell was planned for 000000000000"
    ):
        go(workspace, cell, study="other")


def test_a_checkpoint_of_other_weights_is_refused(tmp_path):
    workspace = tiny.make_workspace(tmp_path)
    cell = tiny.make_cell("head_only")
    assert not go(workspace, cell, study="s", should_stop=lambda: True)
    import torch

    from gpuwork.backbones import build, save
    from gpuwork.registry import BACKBONES

    torch.manual_seed(1)
    row = BACKBONES["nt_v2_nano"]
    save(build(row), row, workspace.model(row.name))
    with pytest.raises(RunError, match="checkpoint of other frozen weights"):
        go(workspace, cell, study="s")


def test_a_result_names_all_the_code_that_made_it(workspace, monkeypatch):
    from gpuwork import provenance

    cell = tiny.make_cell("head_only", learning_rate=3e-3)
    monkeypatch.setattr(provenance, "code_sha256", lambda: "b")
    assert not go(workspace, cell, study="code", should_stop=lambda: True)
    monkeypatch.setattr(provenance, "code_sha256", lambda: "a")
    assert go(workspace, cell, study="code", attempt=1)
    with h5py.File(workspace.result("code", cell_id(cell))) as file:
        assert schema.strings(file["attempts/code_sha256"]) == ["b", "a"]
        assert file["provenance"].attrs["code_sha256"] == "a+b"


def test_a_precision_that_cublas_would_override_is_refused(workspace, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with pytest.raises(RunError, match=r"NVIDIA_TF32_OVERRIDE is set.*\(fp32\); unset it"):
        run(
            tiny.make_cell(),
            Execution(device="cuda", micro_batch=8),
            workspace=workspace,
            study="tf32",
            attempt=0,
            should_stop=lambda: False,
            on_progress=lambda _: None,
        )
