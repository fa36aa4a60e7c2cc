"""The calibration cache: what it was made for decides; users' own files are taken as they are."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from passel.errors import InvalidInput
from passel.passes.quantization.calibration import (
    Calibration,
    CalibrationCache,
    Moments,
    Samples,
    calibration_key,
)
from passel.passes.quantization.calibration.files import write_whole

KEY = {"model": "m", "data": "d", "method": "o"}
MLP = """
<ir_version: 10, opset_import: ["": 20]>
net (float[batch, 2] x) => (float[batch, 2] y) <float[2, 2] w = {%s}> { y = MatMul(x, w) }
"""


def pair(low, high):
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def found():
    made = Moments(3, cross=True)
    x = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    made.update(x, x)
    ranges = {"a": pair(-1.5, 0.1), "b": pair([0.0, -1 / 3], [1e-300, 2.0])}
    return Calibration(ranges, {"a": made.state(), "c": made.state()})


def same(one, other):
    assert one.ranges.keys() == other.ranges.keys()
    for name, ends in one.ranges.items():
        for left, right in zip(ends, other.ranges[name], strict=True):
            assert left.shape == right.shape
            np.testing.assert_array_equal(left, right)
    assert one.moments.keys() == other.moments.keys()
    for name, state in one.moments.items():
        assert state.keys() == other.moments[name].keys()
        for field, array in state.items():
            np.testing.assert_array_equal(array, other.moments[name][field])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calibration.json"


def test_what_is_written_is_read(path):
    assert CalibrationCache(path).read(KEY) is None
    CalibrationCache(path).write(KEY, found())
    cache = CalibrationCache(str(path))
    same(cache.read(KEY), found())
    assert cache.notes == [f"calibration taken from the cache {path}"]
    assert json.loads(path.read_text())["ranges"]["a"] == [-1.5, 0.1]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.npz"]


def test_without_moments_there_is_one_file(path):
    CalibrationCache(path).write(KEY, Calibration({"a": pair(0, 1)}))
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    same(CalibrationCache(path).read(KEY), Calibration({"a": pair(0, 1)}))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_the_text(tmp_path_factory, number):
    path = tmp_path_factory.mktemp("cache") / "c.json"
    CalibrationCache(path).write(KEY, Calibration({"a": pair(number, number)}))
    assert CalibrationCache(path).read(KEY).ranges["a"][0] == number


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"model": "n"}, "model"), ({"data": "e", "method": "p"}, "data and method")],
)
def test_a_stale_cache_is_not_used_and_says_so(path, changed, named):
    CalibrationCache(path).write(KEY, found())
    cache = CalibrationCache(path)
    assert cache.read(KEY | changed) is None
    assert cache.notes == [f"the calibration cache {path} was made for another {named}: recomputed"]
    cache.write(KEY | changed, found())
    assert CalibrationCache(path).read(KEY) is None
    same(CalibrationCache(path).read(KEY | changed), found())


@pytest.mark.parametrize("damage", ["gone", "short", "another"])
def test_moments_that_do_not_belong_are_not_used(path, damage):
    cache = CalibrationCache(path)
    cache.write(KEY, found())
    if damage == "gone":
        cache.beside.unlink()
    elif damage == "short":
        cache.beside.write_bytes(cache.beside.read_bytes()[:200])
    else:
        other = CalibrationCache(path.with_name("other.json"))
        other.write(KEY | {"data": "e"}, found())
        other.beside.replace(cache.beside)
    assert cache.read(KEY) is None
    assert cache.notes == [
        f"the calibration cache {path} has lost calibration.json.npz: recomputed"
    ]


# -- the key ---------------------------------------------------------------------------------------


def test_the_key_tells_weights_data_and_methods_apart(onnx_text):
    graph, _ = onnx_text(MLP % "1, 2, 3, 4")
    again, _ = onnx_text(MLP % "1, 2, 3, 4")
    other, _ = onnx_text(MLP % "1, 2, 3, 5")
    x = np.ones((2, 2), np.float32)
    samples = Samples.of([x], graph.inputs)
    key = calibration_key(graph, samples, ["minmax", "a"])
    assert key == calibration_key(again, samples, ["minmax", "a"])

    def changed(*arguments):
        found = calibration_key(*arguments)
        return [part for part in key if key[part] != found[part]]

    assert changed(other, samples, ["minmax", "a"]) == ["model"]
    assert changed(graph, Samples.of([x + 1], graph.inputs), ["minmax", "a"]) == ["data"]
    assert changed(graph, samples, ["minmaxa", ""]) == ["method"]


# -- users' own files ------------------------------------------------------------------------------

GIVEN = {
    "plain": {"a": [-1, 2.5], "b": [0, 0]},
    "per channel": {"a": [[-1, -2], [1, 2]]},
    "words": {"a": {"low": -1, "high": 1}},
    "ort": {
        "CLS": "TensorsData",
        "data": {
            "a": {
                "CLS": "TensorData",
                "lowest": {"CLS": "numpy.array", "data": [-1.0], "dtype": "float32"},
                "highest": {"CLS": "numpy.array", "data": [3.0], "dtype": "float32"},
            }
        },
    },
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_users_file_holds_for_any_key_and_is_never_replaced(path, kind):
    path.write_text(json.dumps(GIVEN[kind]))
    cache = CalibrationCache(path)
    read = cache.read(KEY)
    expected = {
        "plain": {"a": pair(-1, 2.5), "b": pair(0, 0)},
        "per channel": {"a": pair([-1, -2], [1, 2])},
        "words": {"a": pair(-1, 1)},
        "ort": {"a": pair(-1, 3)},
    }[kind]
    same(read, Calibration(expected))
    assert read.given
    assert cache.notes == [f"ranges of {len(expected)} tensors are those given in {path}"]
    with pytest.raises(InvalidInput, match="ranges that passel did not write: not replaced"):
        cache.write(KEY, found())
    assert json.loads(path.read_text()) == GIVEN[kind]


def test_onnx_runtimes_own_writer(path):
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate")
    ends = (np.array(-1.25, np.float32), np.array(2.5, np.float32))
    data = calibrate.TensorsData(calibrate.CalibrationMethod.MinMax, {"a": ends})
    if not hasattr(calibrate, "save_tensors_data"):
        pytest.skip("this onnxruntime saves no ranges")
    calibrate.save_tensors_data(data, path)
    same(CalibrationCache(path).read(KEY), Calibration({"a": pair(-1.25, 2.5)}))


BAD = [
    ("{", "cannot be read as JSON"),
    ("[1, 2]", r'expected \{"tensor": \[low, high\]\}, got a list'),
    ('{"a": 3}', r"tensor 'a': expected \[low, high\], got 3"),
    ('{"a": [1, 2, 3]}', r"expected \[low, high\]"),
    ('{"a": [2, 1]}', "the low end is above the high end"),
    ('{"a": [0, NaN]}', "expected two finite ends"),
    ('{"a": [[0, 1], [2]]}', "finite ends of one shape"),
    ('{"a": ["x", 1]}', "expected numbers, got 'x'"),
    ('{"a": [[[1]], [[2]]]}', "one number or one a channel"),
    ('{"a": {"lowest": 1}}', "expected two finite ends of one shape, got {'lowest': 1}"),
    ('{"data": [1]}', "expected ranges by tensor name"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text[:20] for text, _ in BAD])
def test_bad_files(path, text, message):
    path.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        CalibrationCache(path).read(KEY)


# -- whole files -----------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_the_old_file(path):
    path.write_text("old")

    def write(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InvalidInput, match=r"cannot write .*: No space left on device"):
        write_whole(path, write)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_path_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot write"):
        CalibrationCache(tmp_path / "file" / "c.json").write(KEY, found())
