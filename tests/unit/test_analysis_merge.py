import json

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import merge
from analysis.load import load
from gpuwork import schema
from gpuwork.spec import cell_id
from tests.tamper import edited
from tests.unit.analysis_cases import CLASSES, Outcome, make_cell, write_cells, write_result


def run(site, *flags):
    return merge.main(["demo", "--site", str(site), *flags])


def test_merged_columns_are_the_results_one_after_the_other(site, workspace):
    cells = [make_cell("full"), make_cell("lora", rank=4)]
    short = write_result(workspace, cells[0], Outcome(n_rows=48, n_epochs=2))
    long = write_result(workspace, cells[1], Outcome(n_rows=96, n_epochs=3, peak_bytes=7))
    write_cells(workspace, cells)
    assert run(site) == 0
    schema.check(workspace.merged("demo"), "merged")
    with h5py.File(workspace.merged("demo")) as merged, h5py.File(short) as a, h5py.File(long) as b:
        assert schema.strings(merged["cells/cell_id"]) == [cell_id(cell) for cell in cells]
        assert merged["test/offset"][:].tolist() == [0, 48, 144]
        assert merged["epochs/cell"][:].tolist() == [0, 0, 1, 1, 1]
        assert merged["cells/rank"][:].tolist() == [-1, 4]
        assert merged["cells/best_epoch"][:].tolist() == [1, 2]
        assert merged["cells/peak_bytes"][1] == 7
        assert schema.strings(merged["class/genus"]) == CLASSES["genus"]
        for name in ("test/genus/top_class", "test/phylum/true_log_probability", "epochs/train_s"):
            assert np.array_equal(merged[name][:], np.concatenate([a[name][:], b[name][:]]))
            assert merged[name].attrs["unit"] == a[name].attrs["unit"]
        told = json.loads(schema.strings(merged["cells/provenance"])[0])
        assert told["torch_version"] == "2.13.0"
        assert told["memory_kind"] == "process"


def test_results_larger_than_the_buffer_come_out_the_same(site, workspace, monkeypatch):
    for seed in range(3):
        write_result(workspace, make_cell(seed=seed))
    assert run(site) == 0
    with h5py.File(workspace.merged("demo")) as file:
        whole = {name: file[name][:] for name in ("test/genus/top_class", "epochs/train_s")}
    monkeypatch.setattr("analysis.flat._BUFFER_BYTES", 1)
    assert run(site) == 0
    with h5py.File(workspace.merged("demo")) as file:
        for name, values in whole.items():
            assert np.array_equal(file[name][:], values)


def test_missing_cells_are_listed_and_the_rest_is_merged(site, workspace, capsys):
    done, missing = make_cell("full"), make_cell("ia3", heads="frozen")
    write_result(workspace, done)
    write_cells(workspace, [done, missing])
    assert run(site) == merge.INCOMPLETE
    study = load(workspace.merged("demo"))
    assert [cell.cell_id for cell in study.cells] == [cell_id(done)]
    assert study.missing == (cell_id(missing),)
    assert study.expected_cells == 2
    assert f"missing  {cell_id(missing)}" in capsys.readouterr().out


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_a_chunk(path):
    with h5py.File(path) as file:
        start = file["test/genus/top_class"].id.get_chunk_info(0).byte_offset
    image = bytearray(path.read_bytes())
    image[start + 20] ^= 0x10
    path.write_bytes(image)


def edit(name, index, value):
    def change(path):
        with edited(path) as file:
            file[name][index] = value

    return change


def drop_provenance(path):
    with edited(path) as file:
        del file["provenance"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "its bytes are not those"),
        (flip_a_byte_of_a_chunk, "its bytes are not those"),
        (edit("epochs/train_loss", 1, np.nan), "epochs/train_loss has values that are not finite"),
        (edit("test/genus/true_class", 0, 24), "test/genus/true_class has values that are none"),
        (edit("config", 0, "[1]"), "list indices must be"),
        (edit("config", 0, '{"cell": {"recipe": {}}}'), "missing field(s) in recipe"),
        (drop_provenance, "provenance"),
    ],
)
def test_a_damaged_result_is_rejected_with_the_reason(site, workspace, damage, reason):
    cells = [make_cell("full"), make_cell("head_only")]
    paths = [write_result(workspace, cell) for cell in cells]
    write_cells(workspace, cells)
    damage(paths[0])
    assert run(site) == merge.INCOMPLETE
    study = load(workspace.merged("demo"))
    assert [cell.cell_id for cell in study.cells] == [cell_id(cells[1])]
    assert study.missing == (cell_id(cells[0]),)
    ((name, told),) = study.rejected
    assert name == paths[0].name
    assert reason in told
    assert str(workspace.root) not in told.split(";")[0]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_no_single_wrong_byte_stops_the_merge(site, workspace, where, value):
    path = write_result(workspace, make_cell("full"), Outcome(n_rows=72))
    image = bytearray(path.read_bytes())
    image[int(where * len(image))] ^= value
    path.write_bytes(image)
    assert run(site) in (0, merge.INCOMPLETE, merge.MIXED)


def test_file_name_attribute_and_configuration_must_be_one(site, workspace):
    write_result(workspace, make_cell("full"), name="taxonomy.other-000000000000")
    assert run(site) == merge.INCOMPLETE
    ((name, reason),) = load(workspace.merged("demo")).rejected
    assert name == "taxonomy.other-000000000000.h5"
    assert "these must be one" in reason


def test_a_result_of_an_older_grid_is_rejected(site, workspace):
    write_result(workspace, make_cell("full"))
    write_result(workspace, make_cell("full", seed=1), Outcome(facts={"code_sha256": "old"}))
    write_cells(workspace, [make_cell("full")])
    assert run(site) == merge.INCOMPLETE
    study = load(workspace.merged("demo"))
    assert len(study.cells) == 1
    assert study.missing == ()
    assert "not in the grid as last submitted" in study.rejected[0][1]


def test_other_classes_are_rejected(site, workspace):
    write_result(workspace, make_cell("full"))
    renamed = {**CLASSES, "genus": [f"renamed {index}" for index in range(24)]}
    write_result(workspace, make_cell("random_init"), Outcome(classes=renamed))
    assert run(site) == merge.INCOMPLETE
    assert "are not those of" in load(workspace.merged("demo")).rejected[0][1]


def test_mixed_code_is_refused_unless_told(site, workspace, capsys):
    write_result(workspace, make_cell(seed=0))
    write_result(workspace, make_cell(seed=1))
    write_result(workspace, make_cell(seed=2), Outcome(facts={"code_sha256": "beef" * 16}))
    assert run(site) == merge.MIXED
    assert not workspace.merged("demo").exists()
    told = capsys.readouterr().err
    assert "results differ in code_sha256: c0dec0dec0de in 2, beefbeefbeef in 1" in told
    assert "--allow-mixed" in told
    assert run(site, "--allow-mixed") == 0
    codes = [cell.provenance["code_sha256"] for cell in load(workspace.merged("demo")).cells]
    assert sorted(codes) == ["beef" * 16, "c0de" * 16, "c0de" * 16]


def test_a_refused_merge_leaves_the_earlier_one(site, workspace):
    write_result(workspace, make_cell(seed=0))
    assert run(site) == 0
    before = workspace.merged("demo").read_bytes()
    write_result(workspace, make_cell(seed=1), Outcome(facts={"corpus_sha256": "beef" * 16}))
    assert run(site) == merge.MIXED
    assert workspace.merged("demo").read_bytes() == before
    assert [path.name for path in workspace.merged("demo").parent.iterdir() if path.is_file()] == [
        "demo.h5"
    ]


def test_no_result_at_all_still_merges(site, workspace, capsys):
    write_cells(workspace, [make_cell("full")])
    assert run(site) == merge.INCOMPLETE
    study = load(workspace.merged("demo"))
    assert study.cells == ()
    assert study.missing == (cell_id(make_cell("full")),)
    assert "there are no usable results yet" in capsys.readouterr().out


def test_without_cells_json_nothing_is_known_to_be_missing(site, workspace, capsys):
    write_result(workspace, make_cell("full"))
    assert run(site) == 0
    assert load(workspace.merged("demo")).expected_cells is None
    out = capsys.readouterr().out
    assert "missing: unknown" in out
    assert "cannot be known" in out


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda _: None, "no study 'demo'"),
        (lambda space: write_cells(space, []).write_text("[{}"), "cells.json: cannot be read"),
        (lambda space: write_cells(space, []).write_text("[3]"), "cells.json: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(site, workspace, capsys, prepare, told):
    prepare(workspace)
    assert run(site) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert not workspace.merged("demo").exists()


def test_a_missing_site_file_is_named(tmp_path, capsys):
    assert merge.main(["demo", "--site", str(tmp_path / "other.toml")]) == 2
    assert "other.toml: no such file" in capsys.readouterr().err


def test_a_hundred_rejected_files(site, workspace, capsys):
    write_result(workspace, make_cell("full"))
    for index in range(100):
        (workspace.results("demo") / f"empty{index:02}.h5").touch()
    assert run(site) == merge.INCOMPLETE
    assert len(load(workspace.merged("demo")).rejected) == 100
    assert "… and 90 more" in capsys.readouterr().out


def test_a_directory_in_the_way_is_an_error_in_one_line(site, workspace, capsys):
    write_result(workspace, make_cell("full"))
    workspace.merged("demo").mkdir()
    assert run(site) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "demo.h5" in line


def test_a_result_of_two_codes_is_told_from_one_of_the_first():
    assert merge._digits("a" * 64 + "+" + "b" * 64) == "a" * 12 + "+" + "b" * 12
