"""What the tests of the walk share: a small residual model, its data, and what became of it."""

import hashlib

import numpy as np
import onnx
import onnx_ir as ir

from passel.graph import onnx as onnx_view
from passel.passes.driver import run_pass, run_passes
from passel.passes.quantize import Quantize
from passel.passes.registry import resolve

WIDTH = 16


def residual(blocks=2, width=WIDTH, engine=None, seed=0):
    """x [batch, width] -> x + down·relu(up·x) for every block -> a head, and a side output."""
    helper, rng = onnx.helper, np.random.default_rng(seed)
    nodes, weights, shapes = [], [], {}

    def linear(x, name, rows, columns):
        scale = 1 / np.sqrt(rows)
        weights.append((rng.normal(size=(rows, columns)) * scale).astype(np.float32))
        nodes.append(helper.make_node("MatMul", [x, f"{name}_w"], [name], name=name))
        weights[-1] = onnx.numpy_helper.from_array(weights[-1], f"{name}_w")
        shapes[name] = columns
        return name

    def pointwise(kind, *operands, columns):
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(kind, list(operands), [name], name=name))
        shapes[name] = columns
        return name

    stream = linear("x", "enter", width, width)
    for number in range(blocks):
        up = linear(stream, f"up{number}", width, 2 * width)
        gate = linear(stream, f"gate{number}", width, 2 * width)
        mixed = pointwise("Mul", pointwise("Relu", up, columns=2 * width), gate, columns=2 * width)
        down = linear(mixed, f"down{number}", 2 * width, width)
        stream = pointwise("Add", stream, down, columns=width)
    outputs = [linear(stream, "head", width, 8), pointwise("Relu", stream, columns=width)]

    def info(name, columns):
        return helper.make_tensor_value_info(name, 1, ["batch", columns])

    graph = helper.make_graph(
        nodes,
        "residual",
        [info("x", width)],
        [info(name, shapes[name]) for name in outputs],
        weights,
        value_info=[info(n, c) for n, c in shapes.items() if n not in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)])
    how = {} if engine is None else {"engine": engine}
    lifted = onnx_view.lift(ir.from_proto(model), **how)
    run_passes(lifted, resolve(["canonicalize"]))
    return lifted


def data(count=6, rows=8, width=WIDTH, seed=7):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rows, width)).astype(np.float32) for _ in range(count)]


def quantized(graph, **how):
    """The pass that ran, and its report."""
    asked = {"scheme": "int8", "weights": "mse+gptq", "placement": "all", "calibration": data()}
    one = Quantize(**{**asked, **how})
    report = run_pass(graph, one)
    assert len(report.layers) == sum(op.kind == "Linear" for op in graph.ops) > 2
    return one, report


def constants(graph):
    """Every constant by name: type, shape and a hash of its bits."""
    return {
        value.name: (
            value.array().dtype.name,
            value.array().shape,
            hashlib.sha256(np.ascontiguousarray(value.array()).tobytes()).hexdigest(),
        )
        for value in graph.constants()
    }


def named(graph, name):
    return next(op for op in graph.ops if op.name == name)
