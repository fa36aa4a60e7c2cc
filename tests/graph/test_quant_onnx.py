"""Quantization in ONNX: read, written and read again, at every granularity and in every format."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from passel.graph import ops as o
from passel.graph.onnx import lift
from passel.graph.onnx_io import read, write
from passel.graph.onnx_quant_opset import opset_for, quantized_opset
from passel.graph.quant_numbers import dynamically_quantized
from passel.passes import Canonicalize
from passel.passes.driver import run_pass
from tests.graph.quant_cases import FORMATS, LAYOUTS, code, dtype_of, grid_shape, round_trip, store

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 5, 8)).astype(np.float32)
W = RNG.standard_normal((8, 10)).astype(np.float32)
B = RNG.standard_normal(10).astype(np.float32)
PRODUCT = "g (float[3,5,8] x) => (float[3,5,10] y) { a = MatMul (x, w) y = Add (a, b) }"
LACKING = ("float4_e2m1fn",)
"""Formats that ONNX Runtime 1.32 has no kernel for."""


def model(text, opset=21, **weights):
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
    proto = onnx.parser.parse_model(head + text)
    proto.graph.initializer.extend(ir_tensor(name, array) for name, array in weights.items())
    return ir.from_proto(proto)


def ir_tensor(name, array):
    return ir.to_proto(ir.Tensor(array, name=name))


def product(opset):
    graph = lift(model(PRODUCT, opset, w=W, b=B))
    run_pass(graph, Canonicalize())
    (linear,) = graph.walk(o.Linear)
    return graph, linear


def on_ort(proto, *arrays):
    """What ONNX Runtime makes of it as it is written: it rounds activations when it may fuse."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    payload = proto.SerializeToString()
    session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def again(graph):
    """The graph lowered, checked in full and lifted, and the proto between."""
    lowered = graph.binding.lower(graph)
    proto = ir.to_proto(lowered)
    onnx.checker.check_model(proto, full_check=True)
    return lift(lowered), proto


def facts(op):
    zero = op.zero_point
    codes = op.output if isinstance(op, o.Quantize) else op.x
    return codes.dtype, op.axis, op.block, None if zero is None else zero.dtype


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("axis", "block"), LAYOUTS)
def test_a_stored_weight(name, axis, block, tmp_path):
    graph, linear = product(25)
    weight = store(graph, linear, dtype_of(name), axis, block)
    want = X @ weight + B
    before = facts(next(graph.walk(o.Dequantize)))
    found, proto = again(graph)
    (dequantize,), (linear,) = found.walk(o.Dequantize), found.walk(o.Linear)
    assert facts(dequantize) == before
    assert linear.weight is dequantize.output
    assert linear.layout == "io"
    assert np.abs(found.run([X])[0] - want).max() < 1e-5
    if name not in LACKING:
        assert np.abs(on_ort(proto, X)[0] - want).max() < 1e-5
    for external in (False, True):
        path = tmp_path / f"{external}.onnx"
        write(ir.from_proto(proto), path, external=external)
        onnx.checker.check_model(str(path), full_check=True)
        stored = next(lift(read(path)).walk(o.Dequantize)).x.array()
        assert stored.dtype == dtype_of(name)
        np.testing.assert_array_equal(stored, code(W, dtype_of(name), axis, block)[0])
    found.update(dequantize)  # written anew, it says the same
    assert np.abs(found.run([X])[0] - want).max() < 1e-5


def test_codes_are_packed_in_the_file(tmp_path):
    w = RNG.standard_normal((64, 100)).astype(np.float32)
    text = "g (float[3,64] x) => (float[3,100] y) { y = MatMul (x, w) }"
    sizes = {}
    for name in ("int8", "int4", "int2"):
        graph = lift(model(text, 25, w=w))
        run_pass(graph, Canonicalize())
        store(graph, next(graph.walk(o.Linear)), dtype_of(name), None)
        (codes,) = [v for v in graph.constants() if v.dtype == dtype_of(name)]
        write(graph.binding.lower(graph), tmp_path / name)
        sizes[name] = (tmp_path / name).stat().st_size
        assert codes.constant.nbytes == 6400 * int(name[3:]) // 8
    assert abs(sizes["int8"] - sizes["int4"] - 3200) < 20
    assert abs(sizes["int4"] - sizes["int2"] - 1600) < 20


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("axis", "block"), [(None, 0), (2, 0), (1, 0), (2, 4), (1, 3)])
@pytest.mark.parametrize("opset", [13, 19, 21, 23, 25])
def test_activations(name, axis, block, opset):
    graph, linear = product(opset)
    dtype = dtype_of(name)
    shape = grid_shape(X.shape, axis, block)
    scale = np.random.default_rng(2).uniform(0.3, 0.5, shape)
    zero = np.full(shape, 1) if name.startswith(("u", "i")) else None
    round_trip(graph, linear.x, dtype, scale, zero, axis, block)
    if opset < opset_for(dtype, block=block):
        assert quantized_opset(graph) == opset_for(dtype, block=block) > opset
        with pytest.raises(TypeError, match=f"needs opset {quantized_opset(graph)}, and the model"):
            graph.binding.lower(graph)
        return
    assert quantized_opset(graph) <= opset
    found, proto = again(graph)
    (quantize,), (dequantize,) = found.walk(o.Quantize), found.walk(o.Dequantize)
    named = name.startswith("float8") and opset >= 21  # else a zero is written out
    assert facts(quantize) == (dtype, axis, block, None if named else dtype)
    assert facts(dequantize) == (dtype, axis, block, None if zero is None else dtype)
    if name not in LACKING:
        np.testing.assert_allclose(found.run([X])[0], on_ort(proto, X)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("what", "opset"),
    [
        (("int8", 0, "float32"), 13),
        (("int8", 16, "float32"), 21),
        (("int4", 0, "float32"), 21),
        (("float8_e4m3fn", 0, "float32"), 19),
        (("int8", 0, "float16"), 19),
        (("float4_e2m1fn", 0, "float32"), 23),
        (("int2", 0, "float32"), 25),
        (("int16", 0, "float32"), 21),
        (("float4_e2m1fn", 16, "float8_e8m0fnu"), 24),
    ],
)
def test_the_opset_that_a_format_needs(what, opset):
    codes, block, scale = what
    assert opset_for(dtype_of(codes), block=block, scale=dtype_of(scale)) == opset


def test_a_format_that_no_opset_has():
    with pytest.raises(TypeError, match="expected codes of a type that ONNX quantizes to"):
        opset_for(np.dtype(np.int64))


def test_a_graph_without_quantization_needs_nothing():
    assert quantized_opset(lift(model(PRODUCT, 18, w=W, b=B))) == 13


LIFTED = {
    "q = QuantizeLinear (x, s)": (np.dtype(np.uint8), None, 0, None),
    "q = QuantizeLinear <output_dtype = 3> (x, s)": (np.dtype(np.int8), None, 0, None),
    "q = QuantizeLinear <output_dtype = 22> (x, s)": (dtype_of("int4"), None, 0, None),
    "q = QuantizeLinear <axis = -1> (x, v)": (np.dtype(np.uint8), 2, 0, None),
    "q = QuantizeLinear <axis = 0> (x, v3, z3)": (np.dtype(np.int8), 0, 0, np.dtype(np.int8)),
    "q = QuantizeLinear <axis = 2, block_size = 4> (x, b4)": (np.dtype(np.uint8), 2, 4, None),
    "q = com.microsoft.QuantizeLinear (x, s, z)": (np.dtype(np.int8), None, 0, np.dtype(np.int8)),
    "q = com.microsoft.QuantizeLinear <axis = 0> (x, v3, z3)": (
        *(np.dtype(np.int8), 0, 0),
        np.dtype(np.int8),
    ),
}
GRIDS = {
    "s": np.array(0.1, np.float32),
    "z": np.array(3, np.int8),
    "v": np.full(8, 0.1, np.float32),
    "v3": np.array([0.1, 0.2, 0.3], np.float32),
    "z3": np.array([1, 2, 3], np.int8),
    "b4": np.full((3, 5, 2), 0.1, np.float32),
}


@pytest.mark.parametrize("node", LIFTED)
def test_spellings(node):
    text = f"g (float[3,5,8] x) => (q) {{ {node} }}"
    graph = lift(model(text, 21, **GRIDS))
    (quantize,) = graph.walk(o.Quantize)
    assert facts(quantize) == LIFTED[node]
    assert quantize.output.shape == X.shape
    want = graph.run([X])[0]
    graph.update(quantize)
    np.testing.assert_array_equal(graph.run([X])[0], want)
    assert want.dtype == LIFTED[node][0]
    assert len(np.unique(want.astype(np.int32))) > 3


def test_what_the_vocabulary_does_not_say_stays_as_it_is():
    for node in (
        "q = QuantizeLinear <saturate = 0, output_dtype = 17> (x, s)",
        "q = QuantizeLinear <precision = 10> (x, s)",
    ):
        graph = lift(model(f"g (float[3,5,8] x) => (q) {{ {node} }}", 23, **GRIDS))
        assert [op.kind for op in graph.ops] == ["QuantizeLinear"]
    overflow = graph.run([X * 1e6])[0]
    assert overflow.dtype == np.uint8


def test_a_dequantized_type_by_name():
    text = "g (uint8[4] x) => (y) { y = DequantizeLinear <output_dtype = 10> (x, s) }"
    graph = lift(model(text, 23, **GRIDS))
    (op,) = graph.walk(o.Dequantize)
    assert op.output.dtype == np.float16
    codes = np.array([0, 1, 2, 255], np.uint8)
    want = (codes * np.float64(np.float32(0.1))).astype(np.float16)
    for _ in range(2):
        np.testing.assert_array_equal(graph.run([codes])[0], want)
        graph.update(op)


def test_float64_is_quantized_through_float32():
    text = "g (double[3,5,8] x) => (double[3,5,8] y) { y = Neg (x) }"
    graph = lift(model(text, 13))
    round_trip(graph, graph.inputs[0], np.dtype(np.int8), 0.1)
    found, _ = again(graph)
    assert found.outputs[0].dtype == np.float64
    want = -np.clip(np.rint(X / np.float32(0.1)), -128, 127) * np.float32(0.1)
    np.testing.assert_allclose(found.run([X.astype(np.float64)])[0], want, atol=1e-6)


def test_dynamic_quantization():
    text = """g (float[3,5,8] x) => (uint8[3,5,8] q, float s, uint8 z) {
      q, s, z = DynamicQuantizeLinear (x) }"""
    graph = lift(model(text, 18))
    (op,) = graph.walk(o.DynamicQuantize)
    for _ in range(2):
        found, proto = again(graph)
        ours = found.run([X])
        for got, want, runtime in zip(
            ours, dynamically_quantized(X), on_ort(proto, X), strict=True
        ):
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(got, runtime)
        graph.update(op)


GEMM = "g (float[5,8] x) => (float[5,10] y) { w = DequantizeLinear (c, s) "


@pytest.mark.parametrize(
    ("rest", "layout", "turned"),
    [
        ("y = MatMul (x, w) }", "io", False),
        ("y = Gemm (x, w, b) }", "io", False),
        ("y = Gemm <transB = 1> (x, w, b) }", "oi", True),
        ("t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t) }", "oi", True),
    ],
)
def test_a_dequantized_constant_is_a_weight(rest, layout, turned):
    codes, scale, _, weight = code(W.T if turned else W, np.dtype(np.int8), None, 0)
    graph = lift(model(GEMM + rest, 18, c=codes, s=scale, b=B))
    run_pass(graph, Canonicalize())
    (linear,) = graph.walk(o.Linear)
    assert isinstance(linear.weight.producer, o.Dequantize)
    assert linear.layout == layout
    want = X[0] @ (weight.T if turned else weight) + (B if "Gemm" in rest else 0)
    for _ in range(2):
        found, proto = again(graph)
        np.testing.assert_allclose(found.run([X[0]])[0], want, atol=1e-5)
        np.testing.assert_allclose(on_ort(proto, X[0])[0], want, atol=1e-5)
        graph.update(linear)


def test_a_product_with_dequantized_activations_is_no_linear():
    text = """g (float[5,8] x, uint8[8,10] c) => (float[5,10] y) {
      w = DequantizeLinear (c, s) y = MatMul (x, w) }"""
    graph = lift(model(text, 18, **GRIDS))
    run_pass(graph, Canonicalize())
    assert list(graph.walk(o.Linear)) == []


def test_evaluate_on_constants():
    graph = lift(model("g (float[3,5,8] x) => (float[3,5,8] y) { y = Neg (x) }", 25))
    first, second = round_trip(graph, graph.inputs[0], dtype_of("int2"), 0.5, 1)
    x = np.array([-9, 0, 0.2, 0.3, 9])
    (codes,) = graph.binding.evaluate(first, [x, np.float32(0.5), np.array(1, ml_dtypes.int2)])
    assert codes.dtype == ml_dtypes.int2
    assert codes.astype(int).tolist() == [-2, 1, 1, 1, 1]
    scale, zero = np.array(0.5, np.float32), np.array(1, ml_dtypes.int2)
    (back,) = graph.binding.evaluate(second, [codes, scale, zero], wide=False)
    assert back.tolist() == [-1.5, 0, 0, 0, 0]
