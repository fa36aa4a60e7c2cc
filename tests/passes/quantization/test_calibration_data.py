"""Samples from every kind of source, and the message of every kind of bad one."""

import gc
import hashlib
import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from passel.errors import InvalidInput
from passel.graph import Value
from passel.passes.quantization.calibration import Samples
from passel.passes.quantization.calibration.spool import Spool

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)
X = Value("x", ("batch", 3), F32)
IDS = Value("ids", ("batch", 5), I64)
ONE = Value("x", (1, 3), F32)


def rows(count, seed=0, shape=(2, 3)):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for _ in range(count)]


def same(samples, expected):
    """Two passes over the samples give exactly these arrays."""
    for _ in range(2):
        found = list(samples)
        assert len(found) == samples.count == len(expected)
        for sample, arrays in zip(found, expected, strict=True):
            for got, wanted in zip(sample, arrays, strict=True):
                assert got.dtype == wanted.dtype
                np.testing.assert_array_equal(got, wanted)
    return samples


# -- sources ---------------------------------------------------------------------------------------


def test_list_of_arrays_tensors_tuples_and_dicts():
    data = rows(4)
    mixed = [data[0], torch.from_numpy(data[1]), (data[2],), {"x": data[3]}]
    same(Samples.of(mixed, [X]), [[a] for a in data])


def test_two_inputs_by_position_and_by_name():
    a, ids = rows(1)[0], np.arange(10).reshape(2, 5)
    for raw in ((a, ids), [a, ids], {"ids": ids, "x": a}, {"arr_0": a, "arr_1": ids}):
        same(Samples.of([raw], [X, IDS]), [[a, ids]])


def test_data_loader_that_shuffles_is_kept_as_it_came_and_labels_are_left_out():
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20)
    loader = DataLoader(
        TensorDataset(x, y), 4, shuffle=True, generator=torch.Generator().manual_seed(1)
    )
    samples = Samples.of(loader, [X])
    first = [s[0] for s in samples]
    same(samples, [[a] for a in first])
    assert sorted(np.concatenate(first).tolist()) == sorted(x.tolist())
    assert any("labels" in note for note in samples.notes)


def test_nested_inputs_with_labels():
    a, ids = rows(1)[0], np.ones((2, 5), np.int64)
    for inner in ((a, ids), {"x": a, "ids": ids}):
        same(Samples.of([(inner, np.zeros(2))], [X, IDS]), [[a, ids]])


def test_generator_is_spooled_and_its_file_goes_away(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = rows(5)
    samples = same(Samples.of(iter(data), [X]), [[a] for a in data])
    assert list(tmp_path.iterdir())
    del samples
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_function_starts_a_new_pass_each_time():
    calls = []

    def source():
        calls.append(0)
        return iter(rows(3))

    same(Samples.of(source, [X]), [[a] for a in rows(3)])
    assert len(calls) == 3


class Reader:
    def __init__(self, data):
        self.data, self.left = data, iter(data)

    def get_next(self):
        a = next(self.left, None)
        return None if a is None else {"x": a}


class Rewinding(Reader):
    def rewind(self):
        self.left = iter(self.data)


@pytest.mark.parametrize("kind", [Reader, Rewinding])
def test_calibration_data_reader(kind):
    same(Samples.of(kind(rows(3)), [X]), [[a] for a in rows(3)])


def test_dataset_without_iter():
    class Dataset:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return rows(3)[index][0], index  # never raises IndexError for its own sake

    same(Samples.of(Dataset(), [X]), [[a[:1]] for a in rows(3)])


@pytest.mark.parametrize("compressed", [False, True])
def test_one_npz(tmp_path, compressed):
    x, ids = np.concatenate(rows(3)), np.arange(30).reshape(6, 5)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "d.npz", ids=ids, x=x, labels=np.arange(6))
    samples = Samples.of(tmp_path / "d.npz", [X, IDS])
    same(samples, [[x[i : i + 1], ids[i : i + 1]] for i in range(6)])


def test_npz_with_an_axis_of_samples_before_the_batch_and_fortran_order(tmp_path):
    x = np.stack(rows(4))
    np.savez(tmp_path / "d.npz", np.asfortranarray(x))
    same(Samples.of(str(tmp_path / "d.npz"), [X]), [[a] for a in x])


def test_npz_rows_follow_a_static_batch():
    x = np.arange(21, dtype=np.float32).reshape(7, 3)
    wide = Value("x", (2, 3), F32)
    same(Samples.of({"x": x}, [wide]), [[x[0:2]], [x[2:4]], [x[4:6]]])


def test_one_npy_and_one_array(tmp_path):
    x = np.concatenate(rows(3))
    np.save(tmp_path / "d.npy", x)
    for source in (tmp_path / "d.npy", x, torch.from_numpy(x)):
        same(Samples.of(source, [X]), [[x[i : i + 1]] for i in range(6)])


def test_folder_of_files_in_the_order_of_names(tmp_path):
    data = rows(3)
    np.savez(tmp_path / "b.npz", x=data[1], label=0)
    np.save(tmp_path / "a.npy", data[0])
    np.savez(tmp_path / "c.npz", data[2])
    (tmp_path / "readme.txt").write_text("no data")
    same(Samples.of(tmp_path, [X]), [[a] for a in data])


def test_npz_is_streamed(tmp_path, monkeypatch):
    """Reading row by row never asks for the whole array."""
    np.savez(tmp_path / "d.npz", x=np.ones((100, 3), np.float32))
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("loaded whole"))
    assert Samples.of(tmp_path / "d.npz", [X]).count == 100


def test_bfloat16_tensor_and_spool():
    value = Value("x", ("n", 3), np.dtype(ml_dtypes.bfloat16))
    tensor = torch.tensor([[1.5, 2.25, -3.0]], dtype=torch.bfloat16)
    expected = np.array([[1.5, 2.25, -3.0]], ml_dtypes.bfloat16)
    same(Samples.of([tensor], [value]), [[expected]])
    same(Samples.of(iter([tensor]), [value]), [[expected]])


# -- splitting, limits, choices --------------------------------------------------------------------


def test_batches_are_split_for_a_static_batch_of_one():
    x = np.concatenate(rows(3))
    same(Samples.of([x[:4], x[4:]], [ONE]), [[x[i : i + 1]] for i in range(6)])


def test_split_shares_inputs_that_fit_already():
    x, shared = rows(1)[0], np.ones((1, 2), np.float32)
    inputs = [ONE, Value("y", (1, 2), F32)]
    same(Samples.of([(x, shared)], inputs), [[x[:1], shared], [x[1:], shared]])


def test_dynamic_batches_are_kept():
    same(Samples.of(rows(2), [X]), [[a] for a in rows(2)])


def test_short_last_batch_of_a_static_one_is_left_out_with_a_note():
    x = np.concatenate(rows(3))
    samples = Samples.of([x[:4], x[4:5]], [Value("x", (4, 3), F32)])
    same(samples, [[x[:4]]])
    assert any("short batch" in note for note in samples.notes)


def test_leftover_rows_are_noted():
    samples = Samples.of([np.ones((5, 3), np.float32)], [Value("x", (2, 3), F32)])
    assert samples.count == 2
    assert any("do not fill" in note for note in samples.notes)


def test_limit_reads_no_further():
    endless = (np.full((1, 3), i, np.float32) for i in itertools.count())
    assert Samples.of(endless, [X], limit=7).count == 7
    assert Samples.of(Samples.of(rows(5), [X]), [X], limit=2).count == 2


@pytest.mark.parametrize("source", [rows(6), (a for a in rows(6))], ids=["list", "generator"])
def test_since_and_take(source):
    samples = Samples.of(source, [X])
    data = rows(6)
    for start in range(7):
        found = [s[0] for s in samples.since(start)]
        assert len(found) == 6 - start
        assert all((a == b).all() for a, b in zip(found, data[start:], strict=True))
    taken = samples.take([4, 1])
    same(taken, [[data[1]], [data[4]]])
    assert [s[0].tolist() for s in taken.since(1)] == [data[4].tolist()]
    assert taken.fingerprint() == Samples.of([data[1], data[4]], [X]).fingerprint()
    with pytest.raises(ValueError, match="expected indices of 6 samples"):
        samples.take([6])


# -- the fingerprint -------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6))
def test_fingerprint_depends_on_content_and_order_only(numbers):
    data = [np.full((1, 3), n, np.float32) for n in numbers]
    print_of = Samples.of(data, [X]).fingerprint()
    assert print_of == Samples.of(iter(data), [X]).fingerprint()
    assert print_of == Samples.of([a.astype(np.float64) for a in data], [X]).fingerprint()
    turned = Samples.of(data[::-1], [X]).fingerprint()
    assert (print_of == turned) == (numbers == numbers[::-1])


def test_fingerprint_is_a_sha256_over_the_bytes():
    a = rows(1)[0]
    inner = hashlib.sha256(b"float32(2, 3)" + a.tobytes()).digest()
    assert Samples.of([a], [X]).fingerprint() == hashlib.sha256(b"x" + inner).hexdigest()


def test_one_bit_changes_it():
    a = rows(1)[0]
    b = a.copy()
    b.view(np.uint32)[1, 2] ^= 1
    assert Samples.of([a], [X]).fingerprint() != Samples.of([b], [X]).fingerprint()


# -- notes -----------------------------------------------------------------------------------------


def test_constant_data_is_noted():
    assert any("constant" in n for n in Samples.of([np.ones((2, 3), np.float32)] * 3, [X]).notes)
    assert any("identical" in n for n in Samples.of(rows(1) * 3, [X]).notes)
    assert Samples.of(rows(3), [X]).notes == ()
    assert Samples.of([np.full((2, 3), i, np.float32) for i in (1, 2)], [X]).notes == ()


# -- bad input -------------------------------------------------------------------------------------

GOOD = rows(1)[0]
BAD = [
    ([], "is empty"),
    (iter([]), "is empty"),
    ([GOOD, GOOD * np.nan], "sample 1, input 'x': it holds NaN: remove or repair"),
    ([np.full((1, 3), np.inf, np.float32)], "it holds Inf"),
    ([np.full((1, 3), 1e300)], "a value of float64 does not fit float32"),
    ([np.ones((2, 3), np.int64)], "expected float32, got int64: convert it"),
    ([np.ones((2, 4), np.float32)], r"expected shape \[batch, 3\], got \[2, 4\]"),
    ([np.ones((2, 3, 1, 1), np.float32)], r"expected 2 axes \[batch, 3\], got 4"),
    ([np.ones((0, 3), np.float32)], "it is empty"),
    ([{"y": GOOD, "z": GOOD}], r"expected arrays named \['x'\] .* got \['y', 'z'\]"),
    ([()], "expected 1 inputs"),
    ([np.array(["a", "b"])], "expected an array of numbers"),
    ([[[[1.0], [2.0, 3.0]]]], "expected an array, got list"),
    (7, "expected calibration data as a list"),
    (lambda model: [], "expected a function of no arguments"),
    (lambda: 3, "expected the calibration function to give an iterable, got int"),
    ("nowhere.npz", "no such file or folder"),
    (Path(__file__), "expected an .npz or .npy file, or a folder"),
    ({"x": np.float32(1)}, "expected a leading sample axis"),
]


@pytest.mark.parametrize(("source", "message"), BAD, ids=[m[:30] for _, m in BAD])
def test_bad_source(source, message):
    with pytest.raises(InvalidInput, match=message):
        Samples.of(source, [X])


BAD_PAIRS = [
    ([GOOD], "expected 2 inputs .*'ids'.* got 1"),
    ([(GOOD, np.ones((3, 5), np.int64))], "'x' and 'ids' disagree on 'batch': 2 and 3"),
    ([(GOOD, np.ones((2, 5)))], "expected int64, got float64"),
    ({"x": np.ones((4, 3), np.float32), "ids": np.ones((5, 5), int)}, "different numbers of"),
]


@pytest.mark.parametrize(("source", "message"), BAD_PAIRS, ids=[m[:30] for _, m in BAD_PAIRS])
def test_bad_pair(source, message):
    with pytest.raises(InvalidInput, match=message):
        Samples.of(source, [X, IDS])


def test_integers_must_fit():
    value = Value("x", ("n",), np.dtype(np.int8))
    same(Samples.of([np.array([-128, 127])], [value]), [[np.array([-128, 127], np.int8)]])
    with pytest.raises(InvalidInput, match="a value of int64 does not fit int8"):
        Samples.of([np.array([128])], [value])


def test_batches_that_disagree():
    inputs = [ONE, Value("y", (1, 2), F32)]
    with pytest.raises(InvalidInput, match=r"disagree on the batch: x \[4, 3\], y \[2, 2\]"):
        Samples.of([(np.ones((4, 3), np.float32), np.ones((2, 2), np.float32))], inputs)


def test_limit_must_be_positive():
    with pytest.raises(InvalidInput, match="at least 1 calibration sample, got a limit of 0"):
        Samples.of(rows(2), [X], limit=0)


@pytest.mark.parametrize("later", [lambda: rows(3, seed=1), lambda: rows(2), lambda: []])
def test_a_source_that_changes_is_caught(later):
    passes = iter([rows(3)])
    samples = Samples.of(lambda: next(passes, None) or later(), [X])
    with pytest.raises(InvalidInput, match=r"calibration sample [02] (differs|is missing)"):
        list(samples)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("folder", [False, True])
def test_truncated_files(tmp_path, suffix, folder):
    path = tmp_path / f"d.{suffix}"
    if suffix == "npz":
        np.savez(path, x=np.ones((50, 3), np.float32))
    else:
        np.save(path, np.ones((50, 3), np.float32))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InvalidInput, match=f"d.{suffix} cannot be read, it is damaged"):
        Samples.of(tmp_path if folder else path, [X])


def test_damage_inside_an_npz_is_found(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.ones((50, 3), np.float32))
    data = bytearray((tmp_path / "d.npz").read_bytes())
    data[400] ^= 255
    (tmp_path / "d.npz").write_bytes(bytes(data))
    with pytest.raises(InvalidInput, match="damaged"):
        Samples.of(tmp_path / "d.npz", [X])


def test_objects_in_files_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{}], object))
    with pytest.raises(InvalidInput, match="Python objects"):
        Samples.of(tmp_path / "d.npz", [X])


def test_folder_without_files(tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no .npz or .npy file"):
        Samples.of(tmp_path, [X])


def test_spool_leaves_room_on_the_disk(monkeypatch):
    spool = Spool()
    spool.append([GOOD])
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InvalidInput, match="no room for more than its first 1 samples"):
        spool.append([GOOD])
