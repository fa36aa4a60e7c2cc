"""Activations at a cut: turns, the limit, files, and another process that goes on."""

import gc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.passes.quantization.store import Store


def array(number, size=4):
    return np.full(size, number, np.float32)


def value(store, side, index, only=None):
    return [float(one[0]) for one in store.load(side, index, only)]


@pytest.fixture(params=["memory", "spilled", "lasting"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if request.param == "lasting":
        return Store(tmp_path / "cut")
    return Store(limit=0 if request.param == "spilled" else 1 << 20)


def test_what_is_saved_is_there_after_the_turn(store):
    store.save("float", 0, [array(1), array(2)])
    assert store.load("float", 0) == []
    store.turn()
    store.save("float", 0, [array(3)])
    assert value(store, "float", 0) == [1, 2]
    assert value(store, "float", 0, only=1) == [2]
    assert store.load("float", 1) == store.load("quantized", 0) == []
    store.turn()
    assert value(store, "float", 0) == [3]


def test_taps_are_there_at_once_until_the_turn(store):
    store.save("taps", 0, [array(1)])
    assert value(store, "taps", 0) == [1]
    store.turn()
    assert store.load("taps", 0) == []


def test_saving_again_replaces(store):
    store.save("float", 0, [array(1), array(2)])
    store.save("float", 0, [array(3)])
    store.turn()
    assert value(store, "float", 0) == [3]


def test_what_is_kept_is_a_copy(store):
    own = array(1)
    store.save("float", 0, [own])
    own[:] = 7
    store.turn()
    assert value(store, "float", 0) == [1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int64", "uint8", "int4"])
def test_types(store, dtype):
    own = np.array([[1, 2], [3, 0]]).astype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    store.save("float", 3, [own, np.array(5)])
    store.turn()
    found, scalar = store.load("float", 3)
    assert (found.dtype, scalar.dtype) == (own.dtype, np.int64)
    np.testing.assert_array_equal(found.astype(float), own.astype(float))
    assert scalar == 5


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.integers(1, 9)), max_size=20)
)
def test_memory_is_bounded_and_the_rest_spills(saves):
    limit = 10 * 4
    store, expected = Store(limit=limit), {}
    for number, (side, index, size) in enumerate(saves):
        store.save(side, index, [array(number, size)])
        expected[side, index] = number, size
        held = [one for arrays in store._next.values() for one in arrays]
        assert sum(one.nbytes for one in held if isinstance(one, np.ndarray)) <= limit
    store.turn()
    for (side, index), (number, size) in expected.items():
        np.testing.assert_array_equal(store.load(side, index)[0], array(number, size))
    store.turn()
    if store._folder is not None:
        assert list(store.folder.iterdir()) == []  # what is forgotten takes no disk
    store.close()


def test_room_is_free_again_after_a_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = Store(limit=16)
    for _ in range(5):
        store.save("float", 0, [array(1)])
        store.turn()
        store.turn()
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_folder_goes_with_the_store(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    closed, dropped = Store(limit=0), Store(limit=0)
    for store in (closed, dropped):
        store.save("float", 0, [array(1)])
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    closed.close()
    del dropped, store
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_another_process_goes_on_from_the_last_turn(tmp_path):
    first, seen = Store(tmp_path / "cut"), []
    first.save("float", 0, [array(1), array(2)])
    first.save("quantized", 0, [array(3)])
    first.save("taps", 0, [array(4)])
    first.turn(lambda: seen.append(first.entries()))
    first.save("float", 0, [array(5)])  # not turned: it was killed here
    second = Store(tmp_path / "cut")
    assert second.resume(1, seen[0])
    assert value(second, "float", 0) == [1, 2]
    assert value(second, "quantized", 0) == [3]
    assert len(list((tmp_path / "cut").iterdir())) == 3
    second.save("float", 0, [array(6)])
    assert value(second, "float", 0) == [1, 2]
    second.turn()
    assert value(second, "float", 0) == [6]


def test_files_of_the_last_cut_are_there_while_the_turn_is_told(tmp_path):
    """So that a kill before the manifest is replaced finds what the old one names."""
    store, listed = Store(tmp_path), []
    for number in range(2):
        store.save("float", 0, [array(number)])
        store.turn(lambda: listed.append(len(list(tmp_path.iterdir()))))
    assert listed == [1, 2]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_damaged_cut_is_not_taken(tmp_path, damage):
    first = Store(tmp_path)
    first.save("float", 0, [array(1)])
    first.turn()
    (path,) = tmp_path.iterdir()
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-1])
    second = Store(tmp_path)
    assert not second.resume(1, first.entries())
    assert second.load("float", 0) == []


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot keep activations in .*file/cut"):
        Store(tmp_path / "file" / "cut").save("float", 0, [array(1)])
