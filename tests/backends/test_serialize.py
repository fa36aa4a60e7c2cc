"""Weights reach ONNX Runtime by pointer: no second copy, alive as long as the session."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import helper

from passel.backends import serialize
from passel.backends.onnxruntime import Session
from passel.backends.serialize import serialized
from tests.api import close, net, onnx_model, quickly

RNG = np.random.default_rng(0)


def model(dtype: Any = np.float32, size: int = 256) -> ir.Model:
    """x·A + b, A above and b below the size that is handed over by pointer."""
    weights = {"a": RNG.normal(size=(8, size)).astype(dtype), "b": np.ones(size, dtype)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["t"]),
        helper.make_node("Add", ["t", "b"], ["y"]),
    ]
    proto = onnx_model(nodes, {"x": ["n", 8]}, {"y": ["n", size]}, weights)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = kind
    found = ir.from_proto(proto)
    for name, value in weights.items():  # protobuf hands its bytes out as copies
        found.graph.initializers[name].const_value = ir.Tensor(value, name=name)
    return found


def array(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.fixture(autouse=True)
def small_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "POINTER_BYTES", 2048)


def test_big_weights_are_shared_and_not_in_the_bytes():
    given = model()
    before = ir.to_proto(given).SerializeToString()
    payload, kept = serialized(given, ort.SessionOptions())
    assert [np.shares_memory(one, array(given, "a")) for one in kept] == [True]
    assert len(payload) < array(given, "a").nbytes < len(before)
    assert ir.to_proto(given).SerializeToString() == before
    proto = onnx.load_model_from_string(payload)
    assert [len(tensor.external_data) > 0 for tensor in proto.graph.initializer] == [True, False]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_results_are_right_in_every_type(dtype):
    given, x = model(dtype), RNG.normal(size=(3, 8)).astype(dtype)
    (found,) = Session(given).run_arrays([x])
    expected = x.astype(np.float64) @ array(given, "a") + array(given, "b")
    assert np.allclose(found, expected, atol=1e-2 if dtype is np.float16 else 1e-4)


def test_weights_live_as_long_as_the_session():
    given = model()
    x, expected = np.ones((1, 8), np.float32), array(given, "a").sum(0) + 1
    session = Session(given)
    del given
    gc.collect()
    _ = [np.full((8, 256), 7, np.float32) for _ in range(99)]
    assert np.allclose(session.run_arrays([x])[0], expected, atol=1e-4)


def test_weights_that_are_not_contiguous_are_copied():
    given = model()
    turned = np.asfortranarray(array(given, "a"))
    given.graph.initializers["a"].const_value = ir.Tensor(turned, name="a")
    x = np.ones((1, 8), np.float32)
    assert np.allclose(Session(given).run_arrays([x])[0], turned.sum(0) + 1, atol=1e-4)


def test_weights_of_an_exported_module_are_its_own():
    module = net()
    lowered = quickly(module, torch.ones(3, 8), passes="none").onnx
    own = [parameter.detach().numpy() for parameter in module.parameters()]
    held = [value.const_value.numpy() for value in lowered.graph.initializers.values()]
    shared = sum(any(np.shares_memory(a, b) for b in held) for a in own)
    assert shared >= 4  # all but the norm's gain, which may be written anew


def test_external_data_stays_a_memory_map(tmp_path: Path):
    given = model(size=1024)
    ir.save(given, tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=1024)
    loaded = ir.load(tmp_path / "m.onnx")
    payload, kept = serialized(loaded, ort.SessionOptions())
    assert len(payload) < 2048 + array(given, "b").nbytes
    assert all(isinstance(one.base, np.memmap) or one.base is not None for one in kept)
    x = torch.ones(2, 8)
    (found,) = Session(tmp_path / "m.onnx").run_tensors([x])
    assert close(found, x @ torch.tensor(array(given, "a")) + 1)
