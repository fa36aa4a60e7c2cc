"""Models on disk: what comes back computes the same, and what is damaged is said to be."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from passel.backends.compiled import CompiledModel, load
from passel.backends.explain import InputSpec
from passel.backends.saved import MANIFEST
from passel.backends.tvm import artefact, available
from passel.backends.tvm.aligned import BOUNDARY
from passel.backends.tvm.artefact import load_model, save_model
from passel.backends.tvm.model import TvmModel
from passel.backends.tvm.session import TvmSession
from passel.backends.tvm.weights_file import NAMES, map_weights, write_weights
from passel.errors import BackendUnavailable, InvalidInput, InvalidModel
from passel.passes.report import Report
from passel.signature import Signature
from tests.api import files
from tests.backends.tvm.programs import model

X = InputSpec("x", "float32", ("n", 4))
WEIGHTS = [
    np.arange(12, dtype=np.float32).reshape(4, 3),
    np.array([-1.5, 0.25, 3], ml_dtypes.bfloat16),
    np.array([-128, 127, 5], np.int8),
    np.array([True, False, True]),
]
ROWS = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def built(machine) -> TvmModel:
    from tvm import relax

    def body(builder, x, weight, bias, steps, mask):
        total = relax.op.add(relax.op.matmul(x, weight), relax.op.astype(bias, "float32"))
        kept = relax.op.where(mask, total, relax.op.zeros_like(builder.emit(total)))
        return [relax.op.multiply(builder.emit(kept), relax.op.astype(steps, "float32"))]

    return replace(model(machine, [X], WEIGHTS, body), notes=["a note"])


@pytest.fixture(params=["linked", "without a compiler"])
def path(built, tmp_path, monkeypatch, request) -> Path:
    """A saved model, with its code in either form."""
    if request.param != "linked":
        monkeypatch.setattr("tvm.support.cc.get_cc", lambda: None)
    save_model(built, tmp_path / "one.tvm")
    return tmp_path / "one.tvm"


def expected() -> np.ndarray:
    weight, bias, steps, mask = WEIGHTS
    return np.where(mask, ROWS @ weight + bias.astype(np.float32), 0) * steps


def test_what_is_loaded_computes_the_same(built, path):
    loaded = load_model(path)
    assert loaded.inputs == (X,)
    for name in ("machine", "outputs", "rules", "serial", "notes"):
        assert getattr(loaded, name) == getattr(built, name)
    for given_, found in zip(WEIGHTS, loaded.constants, strict=True):
        assert found.dtype == given_.dtype
        assert np.array_equal(found, given_)
    result = TvmSession(loaded).run_arrays([ROWS])[0]
    assert np.allclose(result, expected(), rtol=1e-6, atol=1e-5)


def test_a_loaded_model_can_be_saved_where_the_old_one_is_gone(path, tmp_path):
    loaded = load_model(path)
    for file in tmp_path.iterdir():
        file.unlink()
    save_model(loaded, tmp_path / "two.tvm")
    again = TvmSession(load_model(tmp_path / "two.tvm"))
    assert np.allclose(again.run_arrays([ROWS])[0], expected(), rtol=1e-6, atol=1e-5)


def test_another_process_runs_it(path):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from passel.backends.tvm.artefact import load_model\n"
        "from passel.backends.tvm.session import TvmSession\n"
        "rows = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)\n"
        "print(TvmSession(load_model(Path(sys.argv[1]))).run_arrays([rows])[0].tolist())\n"
    )
    found = subprocess.run(
        [sys.executable, "-P", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert np.allclose(json.loads(found.stdout), expected(), rtol=1e-6, atol=1e-5)


def change(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def cut(path: Path, suffix: str) -> None:
    """Truncate the companion with this suffix (any kind of code for "code")."""
    suffixes = (".so", ".ll") if suffix == "code" else (suffix,)
    for file in filter(Path.is_file, map(path.with_suffix, suffixes)):
        file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda p: p.write_text("{"), InvalidModel, r"one\.tvm' is damaged"),
        (lambda p: p.write_text("[1]"), InvalidModel, r"one\.tvm' is damaged"),
        (lambda p: change(p, format=9), InvalidModel, "saved by a newer passel: upgrade it"),
        (lambda p: change(p, tvm="0.9"), InvalidModel, r"compiled with TVM 0\.9.* again"),
        (lambda p: change(p, machine={"cpu": 1}), InvalidModel, r"one\.tvm' is damaged"),
        (lambda p: change(p, inputs=[1]), InvalidModel, r"one\.tvm' is damaged"),
        (lambda p: change(p, code={".sh": ""}), InvalidModel, r"one\.tvm' is damaged"),
        (lambda p: change(p, constants=5), InvalidModel, r"one\.safetensors' is incomplete"),
        (lambda p: cut(p, "code"), InvalidModel, r"one\.(so|ll)' is damaged"),
        (lambda p: cut(p, ".safetensors"), InvalidModel, r"one\.safetensors' is damaged"),
        (lambda p: p.with_suffix(".safetensors").unlink(), InvalidModel, "is missing"),
        (lambda p: p.with_suffix(".safetensors").write_bytes(b""), InvalidModel, "is damaged"),
    ],
)
def test_what_is_damaged(path, spoil, kind, message):
    spoil(path)
    with pytest.raises(kind, match=message):
        load_model(path)


def test_a_compiler_that_fails(built, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(InvalidInput, match="the C compiler '/bin/false' cannot link"):
        save_model(built, tmp_path / "one.tvm")


def test_without_tvm(path, monkeypatch):
    monkeypatch.setattr(available, "version_of", lambda package: None)
    with pytest.raises(BackendUnavailable, match=r'missing: pip install "passel\[tvm\]"'):
        load_model(path)


def compiled(one: TvmModel) -> CompiledModel:
    report = Report()
    return CompiledModel(one, Signature(["x"], ["y"]), report, session=TvmSession(one))


def test_the_whole_compiled_model(built, tmp_path):
    one, rows = compiled(built), torch.from_numpy(ROWS)
    one.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    assert torch.equal(loaded(rows), one(rows))
    assert loaded(x=ROWS).shape == (2, 3)
    names = {"model.tvm", "model.so", "model.safetensors", MANIFEST}
    assert files(tmp_path / "saved").keys() == names
    with pytest.raises(InvalidInput, match="this one runs on TVM"):
        _ = one.onnx


def test_saving_over_the_old_one_while_it_runs(built, tmp_path):
    folder, rows = tmp_path / "saved", torch.from_numpy(ROWS)
    compiled(built).save(folder)
    running, result = load(folder), None
    for _ in range(3):
        result = running(rows)
        running.save(folder)
        assert torch.equal(load(folder)(rows), result)
        assert len(files(folder)) == 4
    assert torch.equal(running(rows), result)


def test_an_interrupted_save_leaves_the_old_one(built, tmp_path, monkeypatch):
    folder, rows = tmp_path / "saved", torch.from_numpy(ROWS)
    one = compiled(built)
    one.save(folder)
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError("no space left on device")

        patch.setattr(artefact, "write_weights", full)
        with pytest.raises(InvalidInput, match=r"cannot write .*: no space left on device"):
            one.save(folder)
    assert torch.equal(load(folder)(rows), one(rows))
    one.save(folder)
    assert len(files(folder)) == 4


arrays = st.lists(
    st.tuples(
        st.sampled_from(sorted(NAMES)), st.lists(st.integers(0, 5), max_size=3), st.integers(0, 9)
    ),
    max_size=6,
)


@given(arrays)
def test_any_arrays_come_back(tmp_path_factory, kinds):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    given_ = [
        np.random.default_rng(seed).integers(0, 2, shape).astype(NAMES[name])
        for name, shape, seed in kinds
    ]
    write_weights(given_, path)
    found = map_weights(path)
    assert len(found) == len(given_)
    for one, other in zip(given_, found, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert np.array_equal(one, other)
        assert other.size == 0 or other.ctypes.data % BOUNDARY == 0
        assert not other.flags.writeable


def test_the_library_of_the_format_reads_it(tmp_path):
    path = tmp_path / "w.safetensors"
    floats = [w for w in WEIGHTS if w.dtype != ml_dtypes.bfloat16]
    write_weights(floats, path)
    found = safetensors.numpy.load_file(path)
    for index, array in enumerate(floats):
        assert np.array_equal(found[str(index)], array)


def test_a_type_that_the_format_lacks(tmp_path):
    with pytest.raises(TypeError, match="expected a type that safetensors has, got complex64"):
        write_weights([np.zeros(3, np.complex64)], tmp_path / "w.safetensors")
