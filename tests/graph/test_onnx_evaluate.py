"""One op on constants: numpy, the reference evaluator and ONNX Runtime give the same."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from passel.graph import ops as o
from passel.graph.onnx import lift
from passel.graph.onnx_direct import compute
from passel.graph.value import Value

RNG = np.random.default_rng(0)
INPUTS = "float[2,3,4] x, float[2,3,4] z, float[4,5] w, float[5] b, int64[2] i, bool[4] c"


def parsed(body, inits="", inputs=INPUTS, opset=18):
    text = (
        f'<ir_version: 10, opset_import: ["": {opset}]> '
        f"g ({inputs}) => (float[] y) {f'<{inits}>' if inits else ''} {{ {body} }}"
    )
    return ir.from_proto(onnx.parser.parse_model(text))


def arrays():
    return {
        "x": RNG.standard_normal((2, 3, 4)).astype(np.float32),
        "z": np.abs(RNG.standard_normal((2, 3, 4))).astype(np.float32) + 0.1,
        "w": RNG.standard_normal((4, 5)).astype(np.float32),
        "b": RNG.standard_normal(5).astype(np.float32),
        "i": np.array([2, 0]),
        "c": np.array([True, False, True, True]),
    }


BODIES = [
    *(f"y = {name} (x, z)" for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(f"y = {name} (z)" for name in ("Sqrt", "Log", "Reciprocal", "Exp", "Sin", "Cos", "Abs")),
    *(f"y = {name} (x)" for name in ("Neg", "Erf", "Tanh", "Sigmoid", "Relu", "Softmax")),
    "y = Pow (z, x)",
    "y = Where (c, x, z)",
    "y = MatMul (x, w)",
    "y = Transpose <perm=[2,0,1]> (x)",
    "y = Gather <axis=2> (x, i)",
    "y = Concat <axis=-1> (x, z)",
    "y = Gemm (w, w)",
    "y = ReduceMean (x)",
    "y = CumSum (x, k)",
    "y = LayerNormalization (x, n)",
    "y = Slice (x, s, e)",
    "y = Reshape (x, t)",
    "y = Expand (x, u)",
    "y = Unsqueeze (x, k)",
    "y = Flatten (x)",
]
INITS = (
    "int64 k = {1}, float[4] n = {1, 2, 3, 4}, int64[2] s = {0, -2}, int64[2] e = {2, -1}, "
    "int64[3] t = {0, -1, 2}, int64[4] u = {2, 1, 3, 1}"
)


@pytest.mark.parametrize("body", BODIES)
def test_evaluate_agrees_with_onnxruntime(body):
    if body == "y = Unsqueeze (x, k)":
        body = "y = Unsqueeze (x, e)"  # its axes are 1-D
    if body == "y = Gemm (w, w)":
        body = "y = Gemm <transB=1> (w, w)"
    model = parsed(body, INITS)
    feeds = arrays()
    graph = lift(model)
    (op,) = graph.ops
    operands = [v.array() if v.constant is not None else feeds[v.name] for v in op.inputs]
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    want = session.run(None, feeds)[0]
    got = graph.binding.evaluate(op, operands)[0]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    if isinstance(op, (o.Elementwise, o.MatMul, o.Linear, o.Reduce, o.Norm)):
        assert got.dtype == np.float64
    op.source = None
    if not isinstance(op, o.Opaque):
        again = graph.binding.evaluate(op, operands)[0]
        np.testing.assert_allclose(again, want, rtol=1e-5, atol=1e-6)


def made(op, *operands):
    op.inputs = [Value(f"v{i}", a.shape, a.dtype) for i, a in enumerate(operands)]
    return op


def test_ops_that_passes_make():
    graph = lift(parsed("y = Neg (x)"))
    x = np.arange(6.0).reshape(2, 3)
    op = made(o.Affine(), x, x)
    np.testing.assert_array_equal(graph.binding.evaluate(op, [x, x])[0], x * x)
    op = made(o.Norm(norm="rms", eps=0.0), x)
    want = x / np.sqrt((x**2).mean(-1, keepdims=True))
    np.testing.assert_allclose(graph.binding.evaluate(op, [x])[0], want)
    op = made(o.Reduce(fn="var", axes=(0,)), x)
    np.testing.assert_allclose(graph.binding.evaluate(op, [x])[0], x.var(0, keepdims=True))
    unbind = made(o.Unbind(axis=0), x)
    assert [part.tolist() for part in graph.binding.evaluate(unbind, [x])] == x.tolist()


def test_an_operator_that_refuses_doubles_gets_its_own_type():
    graph = lift(parsed("h = Cast <to=16> (x) y = CumSum (h, i)"))
    cumsum = list(graph.ops)[1]
    x = np.ones((2, 3), np.float32)
    got = graph.binding.evaluate(cumsum, [x, np.array(1)])[0]
    np.testing.assert_array_equal(got, np.cumsum(x, 1))


def test_integer_division_is_towards_zero():
    op = o.Elementwise(fn="div")
    a, b = np.array([7, -7, 7, -7]), np.array([2, 2, -2, -2])
    assert compute(op, [a, b])[0].tolist() == [3, -3, -3, 3]


def test_movement_copies_nothing():
    x = np.zeros((4, 6), np.float32)
    for op in (o.Reshape(dims=(6, -1)), o.Transpose(perm=(1, 0)), o.Unsqueeze(axes=(0,))):
        (result,) = compute(op, [x])
        assert np.shares_memory(result, x)
        assert result.dtype == np.float32


def test_a_control_flow_node_on_constants():
    body = """y = If (d) <then_branch = t () => (float[2,3,4] p) { p = Add (x, z) },
                          else_branch = f () => (float[2,3,4] q) { q = Sub (x, z) }>"""
    graph = lift(parsed(body, inputs=INPUTS + ", bool d"))
    (op,) = graph.ops
    feeds = arrays() | {"d": np.array(False)}
    got = graph.binding.evaluate(op, [feeds[v.name] for v in op.inputs])[0]
    np.testing.assert_allclose(got, feeds["x"] - feeds["z"], rtol=1e-6)
