"""Tiny ONNX files for the command line's tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

MakeModel = Callable[..., onnx.ModelProto]


def make_block(seed: int = 0, batch: int | str = "batch", width: int = 8) -> onnx.ModelProto:
    """LayerNorm(x·A + c)·B + x·A: a residual stream with one norm, opset 18."""
    random = np.random.default_rng(seed)
    weights = {
        name: random.normal(size=shape).astype(np.float32)
        for name, shape in (("A", (4, width)), ("B", (width, 4)), ("scale", width), ("bias", width))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "A"], ["stream"], name="embed"),
        helper.make_node("LayerNormalization", ["stream", "scale", "bias"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "B"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3, 4])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that holds in.onnx."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    onnx.save(make_block(), "in.onnx")
    return tmp_path


@pytest.fixture
def block() -> MakeModel:
    """The maker of what is in in.onnx: block(seed=0, batch="batch", width=8)."""
    return make_block
