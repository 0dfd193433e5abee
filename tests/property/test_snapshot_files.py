"""Snapshot files: what was written is what is read, or it is Corrupt."""

import re
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from msgspec.structs import replace
from numpy.typing import NDArray

from aiopsd import snapshots
from aiopsd.errors import Corrupt
from aiopsd.model import Snapshot
from aiopsd.protocols import SnapshotRef

names = st.text(st.characters(codec="utf-8"), max_size=40)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=10,
)
dtypes = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(sizes=(16, 32, 64)),
    hnp.complex_number_dtypes(sizes=(64, 128)),
    hnp.datetime64_dtypes(),
    hnp.byte_string_dtypes(max_len=9),
    hnp.unicode_string_dtypes(max_len=9),
)
arrays = dtypes.flatmap(lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)))


@st.composite
def states(draw: st.DrawFn) -> Snapshot:
    def view(array: NDArray[Any]) -> NDArray[Any]:
        return array.T if draw(st.booleans()) else array

    return Snapshot(
        kind=draw(names),
        version=draw(st.integers(0, 2**31)),
        meta=draw(st.dictionaries(names, plain, max_size=4)),
        arrays={name: view(draw(arrays)) for name in draw(st.lists(names, max_size=4, unique=True))},
    )


def written(folder: str, state: Snapshot) -> SnapshotRef:
    return snapshots.write(Path(folder), "detect/a/0", 7, "h", 1.0, state)


def same(a: Snapshot, b: Snapshot) -> bool:
    """Bit for bit, NaN and signed zeros included; C or Fortran order aside."""
    return (a.kind, a.version, a.meta, list(a.arrays)) == (b.kind, b.version, b.meta, list(b.arrays)) and all(
        (x.dtype, x.shape, x.tobytes()) == (b.arrays[k].dtype, b.arrays[k].shape, b.arrays[k].tobytes())
        for k, x in a.arrays.items()
    )


@settings(max_examples=120, deadline=None)
@given(states())
def test_round_trip(state: Snapshot) -> None:
    """Whatever a stage may hold comes back bit for bit, in arrays of its own that it may write to."""
    with tempfile.TemporaryDirectory() as folder:
        ref = written(folder, state)
        found = snapshots.read(ref)

        assert same(state, found)
        assert all(array.flags.writeable and array.flags.c_contiguous for array in found.arrays.values())
        assert [Path(ref.path)] == list(Path(folder).iterdir())
        assert Path(ref.path).stat().st_size == ref.size


@settings(max_examples=120, deadline=None)
@given(states(), st.data())
def test_any_changed_byte_is_corrupt(state: Snapshot, data: st.DataObject) -> None:
    """A file in which any byte changed, also one that keeps its size, is refused by name and never half read."""
    with tempfile.TemporaryDirectory() as folder:
        ref = written(folder, state)
        content = bytearray(Path(ref.path).read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        Path(ref.path).write_bytes(content)

        assert_corrupt(ref)


@settings(max_examples=60, deadline=None)
@given(states(), st.data())
def test_any_cut_is_corrupt(state: Snapshot, data: st.DataObject) -> None:
    """A file that ends early is refused, also by a reader who was told that this is its size."""
    with tempfile.TemporaryDirectory() as folder:
        ref = written(folder, state)
        size = data.draw(st.integers(0, ref.size - 1))
        with Path(ref.path).open("r+b") as file:
            file.truncate(size)

        assert_corrupt(ref)
        assert_corrupt(replace(ref, size=size))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_foreign_bytes_are_corrupt(content: bytes, magic: bool) -> None:
    """Bytes that nobody wrote as a snapshot raise Corrupt and nothing else, whatever sizes they claim."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.snap"
        path.write_bytes(snapshots.MAGIC + content if magic else content)

        assert_corrupt(
            SnapshotRef(
                name="x",
                position=0,
                config_hash="",
                written_at=0.0,
                path=str(path),
                sha256="",
                size=path.stat().st_size,
            )
        )


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), st.integers(-1, 2**63), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_file_names_are_safe(name: str, position: int, sha256: str) -> None:
    """Any name of a stage gives a file name that stays in its folder and fits every file system."""
    file = snapshots.file_name(name.encode(errors="replace").decode(), position, sha256)

    assert "/" not in file
    assert not file.startswith(".")
    assert len(file.encode()) < 200
    assert Path(file).name == file


def assert_corrupt(ref: SnapshotRef) -> None:
    with pytest.raises(Corrupt, match=re.escape(ref.path)):
        snapshots.read(ref)


def test_no_second_copy_in_memory(tmp_path: Path) -> None:
    """Writing and reading 64 MB take no more than a few chunks beside the arrays themselves."""
    state = Snapshot(kind="x", version=1, meta={}, arrays={f"a{i}": np.ones(1_000_000) for i in range(8)})
    tracemalloc.start()
    ref = snapshots.write(tmp_path, "x", 1, "h", 1.0, state)
    _, writing = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    found = snapshots.read(ref)
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert same(state, found)
    assert writing < 2 * snapshots.CHUNK
    assert reading < 64_000_000 + 2 * snapshots.CHUNK
