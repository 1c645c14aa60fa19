from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwork.layouts import ATTRIBUTES, LAYOUTS, VERSIONS
from gpuwork.schema import (
    SchemaError,
    check,
    levels_of,
    now_utc,
    put,
    seal,
    strings,
    write,
)
from tests.tamper import edited

LEVELS = ("coarse", "fine")
TEXT = ("Äther", "", "x y")


def columns(layout):
    """All names of a layout with its levels filled in, and their columns."""
    for name, column in LAYOUTS[layout].items():
        for level in LEVELS if "<level>" in name else ("",):
            yield name.replace("<level>", level), column


def values(column, rows):
    """Some values: row i holds i, an offset starts every row one after the other."""
    if column.dtype == "str":
        return [TEXT[row % 3] for row in range(rows)]
    count = np.arange(rows + 1 if column.dimension.endswith("+1") else rows)
    count = count % 200 if column.dtype == "uint8" else count
    return count if column.axes == 1 else np.stack([count, count], axis=1)


def fill(file, layout, rows, *, without=""):
    """Every attribute and column of a layout, with the same number of rows throughout."""
    for name in ATTRIBUTES[layout]:
        if name != without:
            file.attrs[name] = list(LEVELS) if name == "levels" else "some text"
    file.attrs["levels"] = list(LEVELS)
    for name, column in columns(layout):
        if name != without:
            put(file, name, values(column, rows), layout=layout)


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture
def path(tmp_path, layout):
    """A good file of 100 rows, large enough to be compressed."""
    path = tmp_path / f"{layout}.h5"
    with write(path, layout) as file:
        fill(file, layout, 100)
    return path


def refusal(path, layout):
    with pytest.raises(SchemaError) as caught:
        check(path, layout)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_what_is_written_is_read_back(path, layout):
    check(path, layout)
    with h5py.File(path, "r") as file:
        assert levels_of(file) == LEVELS
        assert file.attrs["schema"] == f"glm-grid.{layout}"
        assert file.attrs["schema_version"] == VERSIONS[layout]
        for name, column in columns(layout):
            assert file[name].attrs["unit"] == column.unit
            expected = values(column, 100)
            if column.dtype == "str":
                assert strings(file[name]) == expected
            else:
                assert file[name].dtype == column.dtype
                assert np.array_equal(file[name][:], expected)


@pytest.mark.parametrize("rows", [0, 1, 63, 64])
@pytest.mark.parametrize("in_memory", [False, True])
def test_few_rows_or_none_are_a_good_file(tmp_path, layout, rows, in_memory):
    path = tmp_path / "a.h5"
    with write(path, layout, in_memory=in_memory) as file:
        fill(file, layout, rows)
    check(path, layout)


def test_columns_are_checksummed_and_those_to_be_mapped_are_plain(tmp_path):
    path = tmp_path / "tokens.h5"
    with write(path, "tokens") as file:
        fill(file, "tokens", 100)
        del file["token"]
        put(file, "token", np.arange(100), layout="tokens", plain=True)
    with h5py.File(path, "r") as file:
        offset, token = file["offset"], file["token"]
        assert (offset.compression, offset.shuffle, offset.fletcher32) == ("gzip", True, True)
        assert token.chunks is None
        mapped = np.memmap(path, dtype=token.dtype, offset=token.id.get_offset(), shape=100)
        assert np.array_equal(mapped, np.arange(100))


def test_a_missing_column_is_named(path, layout):
    for name, _ in columns(layout):
        with edited(path) as file:
            file.move(name, "aside")
        assert refusal(path, layout).endswith(f"lacks {name}; make it again")
        with edited(path) as file:
            file.move("aside", name)
    check(path, layout)


def test_a_missing_attribute_is_named(path, layout):
    for name in ATTRIBUTES[layout]:
        with edited(path) as file:
            kept = file.attrs[name]
            del file.attrs[name]
        assert re.search(rf"lacks {name}\b", refusal(path, layout))
        with edited(path) as file:
            file.attrs[name] = kept
    check(path, layout)


def replaced(path, name, data, **attributes):
    with edited(path) as file:
        unit = file[name].attrs["unit"]
        del file[name]
        file.create_dataset(name, data=data).attrs.update({"unit": unit, **attributes})


@pytest.mark.parametrize("layout", ["result"])
@pytest.mark.parametrize(
    ("name", "data", "attributes", "told"),
    [
        ("steps/loss", np.zeros(100, np.float32), {}, "is float32 with 1 axes, expected float64"),
        ("steps/loss", np.zeros((100, 1)), {}, "is float64 with 2 axes, expected float64 with 1"),
        ("steps/loss", np.zeros(()), {}, "is float64 with 0 axes"),
        ("steps/loss", np.zeros(99), {}, "steps/loss has 99 rows, but steps/step has 100"),
        ("steps/loss", ["x"] * 100, {}, "is str with 1 axes, expected float64"),
        ("steps/loss", np.zeros(100), {"unit": "bit"}, "steps/loss is in 'bit', expected 'nat'"),
        ("attempts/node", np.arange(100), {}, "is int64 with 1 axes, expected str"),
        ("test/fine/true_rank", np.zeros(101, np.int32), {}, "has 101 rows, but test/row has 100"),
    ],
)
def test_a_column_that_is_not_as_promised_is_refused(path, layout, name, data, attributes, told):
    replaced(path, name, data, **attributes)
    assert told in refusal(path, layout)


@pytest.mark.parametrize("layout", ["tokens"])
@pytest.mark.parametrize("change", [{0: 1}, {100: 99}, {100: 101}, {50: 52, 51: 51}, {0: -1}])
def test_offsets_must_run_through_the_flat_column(path, layout, change):
    offset = np.arange(101)
    for index, value in change.items():
        offset[index] = value
    replaced(path, "offset", offset)
    assert "offset does not run from 0 to the length of /token" in refusal(path, layout)


def test_another_layout_or_major_version_is_refused(path, layout):
    other = next(name for name in LAYOUTS if name != layout)
    assert f"is 'glm-grid.{layout}' version '1.0', expected glm-grid.{other}" in refusal(
        path, other
    )
    with edited(path) as file:
        file.attrs["schema_version"] = "1.7"
    check(path, layout)
    with edited(path) as file:
        file.attrs["schema_version"] = "2.0"
    assert "version '2.0'" in refusal(path, layout)


@pytest.mark.parametrize("content", [b"", b"not HDF5", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_hdf5_is_refused(tmp_path, content):
    path = tmp_path / "a.h5"
    path.write_bytes(content)
    assert "its bytes are not those that were written" in refusal(path, "corpus")
    assert "cannot be read" in refusal(tmp_path / "absent.h5", "corpus")
    assert "cannot be read" in refusal(tmp_path, "corpus")


def test_hdf5_of_someone_else_is_refused(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w"):
        pass
    seal(path)
    assert "is None version ''" in refusal(path, "corpus")


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A good result file; tests damage copies of it."""
    path = tmp_path_factory.mktemp("result") / "result.h5"
    with write(path, "result", in_memory=True) as file:
        fill(file, "result", 100)
    return path


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(result, share):
    content = result.read_bytes()
    cut = result.with_name("cut.h5")
    cut.write_bytes(content[: int(share * len(content))])
    refusal(cut, "result")


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
def test_a_bit_flipped_anywhere_is_found(result, share, bit):
    damaged = flipped(result, int(share * result.stat().st_size), bit)
    assert "its bytes are not those that were written" in refusal(damaged, "result")


def flipped(path, position, bit):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    damaged = path.with_name("flipped.h5")
    damaged.write_bytes(content)
    return damaged


@pytest.mark.parametrize("in_memory", [False, True])
def test_an_exception_leaves_nothing_or_the_file_that_was_there(tmp_path, in_memory):
    path = tmp_path / "new" / "a.h5"

    def fail():
        with write(path, "corpus", in_memory=in_memory) as file:
            put(file, "split", np.zeros(100), layout="corpus")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert list(path.parent.iterdir()) == []
    path.write_text("what was there")
    with pytest.raises(KeyError, match="mine"):
        fail()
    assert [entry.name for entry in path.parent.iterdir()] == ["a.h5"]
    assert path.read_text() == "what was there"


@pytest.mark.parametrize("in_memory", [False, True])
def test_an_incomplete_file_never_appears(tmp_path, in_memory):
    path = tmp_path / "a.h5"
    with (
        pytest.raises(SchemaError, match="lacks split"),
        write(path, "corpus", in_memory=in_memory) as file,
    ):
        fill(file, "corpus", 3, without="split")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_file_under_the_name(tmp_path):
    path = tmp_path / "a.h5"
    code = (
        "import os, sys, pathlib\n"
        "from gpuwork.schema import put, write\n"
        "with write(pathlib.Path(sys.argv[1]), 'corpus') as file:\n"
        "    put(file, 'split', [0] * 1000, layout='corpus')\n"
        "    file.flush()\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.h5.")
    assert left.name.endswith(".tmp")
    assert list(tmp_path.glob("*.h5")) == []
    with write(path, "corpus") as file:
        fill(file, "corpus", 3)
    check(path, "corpus")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
@pytest.mark.parametrize("in_memory", [False, True])
def test_permissions_follow_the_umask(tmp_path, mask, mode, in_memory):
    before = os.umask(mask)
    try:
        with write(tmp_path / "a.h5", "corpus", in_memory=in_memory) as file:
            fill(file, "corpus", 3)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.h5").stat().st_mode) == mode


def test_a_file_without_levels_has_none(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        assert levels_of(file) == ()


def test_the_time_is_utc_to_the_second():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", now_utc())
    assert datetime.now(UTC) - datetime.fromisoformat(now_utc()) < timedelta(seconds=5)


def test_an_edited_file_is_refused_until_sealed_again(result):
    path = result.with_name("edited.h5")
    path.write_bytes(result.read_bytes())
    with h5py.File(path, "r+") as file:
        file["steps/loss"][0] = 9.0
    assert "its bytes are not those that were written" in refusal(path, "result")
    seal(path)
    check(path, "result")
    with h5py.File(path, "r") as file:
        assert file["steps/loss"][0] == 9.0
