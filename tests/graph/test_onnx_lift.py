"""What each ONNX node becomes, and what stays opaque."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passel.errors import InvalidModel
from passel.graph import ops as o
from passel.graph.onnx import lift

F32 = np.float32


def model(body, inputs="float[2,3,4] x", outputs="float[] y", opset=18, inits="", extra=""):
    """A model from ONNX's text form."""
    imports = f'"": {opset}, "com.microsoft": 1'
    text = (
        f"<ir_version: 10, opset_import: [{imports}]>\n"
        f"g ({inputs}) => ({outputs}) {f'<{inits}>' if inits else ''} {{ {body} }}\n{extra}"
    )
    return ir.from_proto(onnx.parser.parse_model(text))


def first(*args, **kwargs):
    graph = lift(model(*args, **kwargs))
    return next(graph.ops)


def fields(op):
    """The attributes that the vocabulary gives this kind of op."""
    return {name: getattr(op, name) for name in type(op).__annotations__}


@pytest.mark.parametrize(
    ("body", "kind", "want"),
    [
        ("y = Softmax <axis=-2> (x)", o.Softmax, {"axis": 1}),
        ("y = Transpose (x)", o.Transpose, {"perm": (2, 1, 0)}),
        ("y = Transpose <perm=[1,0,2]> (x)", o.Transpose, {"perm": (1, 0, 2)}),
        ("y = Concat <axis=-1> (x, x)", o.Concat, {"axis": 2}),
        ("y = Cast <to=1> (x)", o.Identity, {}),
        ("y = Cast <to=11> (x)", o.Cast, {"dtype": np.dtype(np.float64)}),
        ("y = Shape (x)", o.ShapeOf, {"axes": (0, 1, 2), "scalar": False}),
        ("y = Shape <start=-2, end=2> (x)", o.ShapeOf, {"axes": (1,), "scalar": False}),
        ("y = Flatten <axis=-1> (x)", o.Reshape, {"dims": (6, 4)}),
        ("y = Flatten <axis=0> (x)", o.Reshape, {"dims": (1, 24)}),
        ("y = Dropout (x)", o.Identity, {}),
        ("y = Max (x, x)", o.Elementwise, {"fn": "maximum"}),
        ("y = Split <axis=2, num_outputs=1> (x)", o.Split, {"axis": 2, "sizes": (4,)}),
        ("y = com.microsoft.Gelu (x)", o.Elementwise, {"fn": "gelu"}),
        ("y = com.microsoft.FastGelu (x)", o.Elementwise, {"fn": "gelu_tanh"}),
        ("y = com.microsoft.QuickGelu <alpha=1.0> (x)", o.Elementwise, {"fn": "silu"}),
        (
            "y, i = TopK <axis=-1, largest=0> (x, n)",
            o.TopK,
            {"axis": 2, "k": None, "largest": False},
        ),
        ("y = ScatterElements <axis=-1> (x, n, x)", o.Scatter, {"axis": 2}),
        ("y = ConstantOfShape (n)", o.Fill, {"number": 0.0, "dims": None}),
        (
            "y = ConstantOfShape <value = int64[1] {9223372036854775807}> (n)",
            o.Fill,
            {"number": 2**63 - 1, "dims": None},
        ),
        ("y = ReduceMean <keepdims=0> (x)", o.Reduce, {"axes": (0, 1, 2), "keepdims": False}),
        ("y = ReduceMean <noop_with_empty_axes=1> (x)", o.Identity, {}),
    ],
)
def test_attributes(body, kind, want):
    op = first(body, "float[2,3,4] x, int64[1] n")
    assert type(op) is kind
    assert {name: getattr(op, name) for name in want} == want


@pytest.mark.parametrize(
    ("body", "inits", "kind", "want"),
    [
        ("y = Reshape (x, s)", "int64[2] s = {6, -1}", o.Reshape, {"dims": (6, -1)}),
        ("y = Reshape (x, s)", "int64[2] s = {0, -1}", o.Reshape, {"dims": (2, -1)}),
        ("y = Reshape (x, s)", "int64[3] s = {3, 2, 0}", o.Reshape, {"dims": (3, 2, 4)}),
        ("y = Expand (x, s)", "int64[2] s = {3, 1}", o.Expand, {"dims": (-1, 3, -1)}),
        ("y = Expand (x, s)", "int64[4] s = {5, 1, 1, 4}", o.Expand, {"dims": (5, -1, -1, 4)}),
        ("y = Unsqueeze (x, s)", "int64[2] s = {-1, 0}", o.Unsqueeze, {"axes": (4, 0)}),
        ("y = ReduceSum (x, s)", "int64[1] s = {-1}", o.Reduce, {"fn": "sum", "axes": (2,)}),
        ("y = ReduceMax (x, s)", "int64[1] s = {0}", o.Reduce, {"fn": "max", "axes": (0,)}),
        ("y = Split <axis=1> (x, s)", "int64[1] s = {3}", o.Split, {"axis": 1, "sizes": (3,)}),
        ("y = Gather <axis=-1> (x, s)", "int64[1] s = {3}", o.Gather, {"axis": 2}),
        (
            "y = Slice (x, s, e)",
            "int64[2] s = {0, 1}, int64[2] e = {-1, 9}",
            o.Slice,
            {"axes": (0, 1), "starts": (0, 1), "ends": (-1, 9), "steps": (1, 1)},
        ),
        (
            "y = Slice (x, s, e, a, t)",
            "int64[1] s = {0}, int64[1] e = {9}, int64[1] a = {-1}, int64[1] t = {2}",
            o.Slice,
            {"axes": (2,), "starts": (0,), "ends": (9,), "steps": (2,)},
        ),
        ("y = Attention (q, q, q)", "", o.Opaque, {}),
    ],
)
def test_constant_operands(body, inits, kind, want):
    inputs = "float[2,3,4] x, float[2,3,4] q" if "(q" in body else "float[2,3,4] x"
    op = first(body, inputs, opset=23 if "(q" in body else 18, inits=inits)
    assert type(op) is kind
    assert {name: getattr(op, name) for name in want} == want


@pytest.mark.parametrize(
    ("inputs", "body", "want"),
    [
        ("float[2,3] x, float[5,3] w", "y = Gemm <transB=1> (x, w)", "oi"),
        ("float[2,3] x, float[3,5] w", "y = Gemm (x, w)", "io"),
        ("float[2,3] x, float[3,5] w, float[5] b", "y = Gemm (x, w, b)", "io"),
        ("float[2,3] x, float[3,5] w, float[1] b", "y = Gemm (x, w, b)", None),
        ("float[2,3] x, float[3,5] w, float[2,5] b", "y = Gemm (x, w, b)", None),
        ("float[2,3] x, float[3,5] w", "y = Gemm <alpha=2.0> (x, w)", None),
        ("float[3,2] x, float[3,5] w", "y = Gemm <transA=1> (x, w)", None),
    ],
)
def test_gemm(inputs, body, want):
    op = first(body, inputs)
    assert (op.layout if isinstance(op, o.Linear) else None) == want


def test_conv_padding():
    inputs = "float[1,4,8,8] x, float[4,4,3,3] w"
    assert first("y = Conv <pads=[1,2,3,4]> (x, w)", inputs).padding == ((1, 3), (2, 4))
    assert first('y = Conv <auto_pad="VALID"> (x, w)', inputs).padding == ((0, 0), (0, 0))
    assert first('y = Conv <auto_pad="SAME_UPPER"> (x, w)', inputs).padding is None
    assert first('y = Conv <auto_pad="SAME_LOWER"> (x, w)', inputs).kind == "Conv"
    assert isinstance(first('y = Conv <auto_pad="SAME_LOWER"> (x, w)', inputs), o.Opaque)
    assert first("y = ConvTranspose <strides=[2,2]> (x, w)", inputs).transposed


@pytest.mark.parametrize(
    ("body", "opset", "want"),
    [
        ("y = LayerNormalization <axis=1> (x, s)", 18, ("layer", 2)),
        ("y = RMSNormalization (x, w)", 23, ("rms", 1)),
        ("y = SimplifiedLayerNormalization (x, w)", 18, ("rms", 1)),
        ("y = com.microsoft.SimplifiedLayerNormalization (x, w)", 18, ("rms", 1)),
        ("y = LayerNormalization (x, u)", 18, None),  # a scale that only broadcasts
    ],
)
def test_norms(body, opset, want):
    inputs = "float[2,3,4] x, float[4] w, float[3,4] s, float[1] u"
    op = first(body, inputs, opset=opset)
    assert ((op.norm, op.ndim) if isinstance(op, o.Norm) else None) == want
    assert want is None or op.output.shape == (2, 3, 4)


def test_a_layer_norm_whose_statistics_are_read_is_opaque():
    body = "y, m = LayerNormalization (x, w)"
    graph = lift(model(body, "float[2,4] x, float[4] w", "float[] y, float[] m"))
    assert isinstance(next(graph.ops), o.Opaque)


QKV = "float[1,4,5,8] q, float[1,2,5,8] k, float[1,2,5,8] v, float[5,5] m"


@pytest.mark.parametrize(
    ("body", "lifted"),
    [
        ("y = Attention (q, k, v)", True),
        ("y = Attention <is_causal=1, scale=0.5> (q, k, v, m)", True),
        ("y = Attention <softcap=1.0> (q, k, v)", False),
        ("y, pk, pv = Attention (q, k, v, m, k, v)", False),
    ],
)
def test_attention(body, lifted):
    op = first(body, QKV, opset=23)
    assert isinstance(op, o.Attention) is lifted


@pytest.mark.parametrize(
    "body",
    [
        "y = ReduceMean (x, n)",
        "y = Unsqueeze (x, n)",
        "y = Slice (x, n, n, n)",
        'y = ScatterElements <reduction="add"> (x, n, x)',
        "y = Max (x, x, x)",
        "y = com.microsoft.QuickGelu (x)",
    ],
)
def test_what_is_computed_or_unknown_stays_opaque(body):
    assert isinstance(first(body, "float[2,3,4] x, int64[1] n"), o.Opaque)


def test_known_counts_and_extents():
    inits = "int64[1] k = {2}, int64[2] s = {2, 3}"
    op = first("y, i = TopK <axis=1> (x, k)", inits=inits)
    assert (op.axis, op.k, op.largest) == (1, 2, True)
    op = first("y = ConstantOfShape <value = bool[1] {1}> (s)", inits=inits)
    assert (op.number, op.dims) == (True, (2, 3))


def test_computed_bounds_leave_the_axes_known():
    op = first("y = Slice (x, n, n, a)", "float[2,3,4] x, int64[1] n", inits="int64[1] a = {-1}")
    assert (op.axes, op.starts, op.ends) == ((2,), None, None)


def test_a_computed_target_is_the_second_operand():
    op = first("y = Reshape (x, n)", "float[2,3,4] x, int64[2] n")
    assert op.dims is None
    assert op.inputs[1].name == "n"


def test_random_numbers_are_an_effect():
    graph = lift(model("r = RandomNormalLike (x) y = Add (x, r)"))
    assert [op.effectful for op in graph.ops] == [True, False]


def test_an_operator_of_another_domain_keeps_its_domain():
    text = model("y = com.microsoft.BiasGelu (x, b)", "float[2,4] x, float[4] b")
    assert next(lift(text).ops).kind == "com.microsoft::BiasGelu"


def test_shapes_are_inferred_and_unknown_extents_are_all_different():
    body = "t = NonZero (x) u = Transpose (t) y = Cast <to=1> (u)"
    graph = lift(model(body, "float[n,3] x", "float[k,2] y"))
    nonzero, transposed, _ = graph.ops
    assert graph.inputs[0].shape == ("n", 3)
    assert nonzero.output.shape[0] == 2
    assert transposed.output.shape[::-1] == nonzero.output.shape


def test_shapes_past_operators_that_onnx_does_not_know():
    graph = lift(model("t = com.microsoft.Gelu (x) y = Relu (t)"))
    assert next(graph.ops).output.shape == (2, 3, 4)


def test_constant_nodes_are_constants():
    body = "c = Constant <value_floats=[1.0, 2.0, 3.0, 4.0]> () y = Add (x, c)"
    graph = lift(model(body))
    (add,) = graph.ops
    np.testing.assert_array_equal(add.inputs[1].array(), [1, 2, 3, 4])
    assert add.inputs[1].dtype == F32


def test_functions_are_inlined_and_the_model_is_left_alone():
    function = '<domain: "own", opset_import: ["": 18]> Twice (a) => (b) { b = Add (a, a) }'
    source = model("y = own.Twice (x)", extra=function)
    source.opset_imports["own"] = 1
    before = ir.to_proto(source).SerializeToString()
    graph = lift(source)
    assert [op.kind for op in graph.ops] == ["add"]
    assert ir.to_proto(source).SerializeToString() == before
    assert not graph.binding.lower(graph).functions


def test_functions_that_call_each_other_are_refused():
    functions = (
        '<domain: "own", opset_import: ["": 18, "own": 1]> A (a) => (b) { b = own.B (a) }\n'
        '<domain: "own", opset_import: ["": 18, "own": 1]> B (a) => (b) { b = own.A (a) }'
    )
    source = model("y = own.A (x)", extra=functions)
    with pytest.raises(InvalidModel, match="cannot read the graph of this ONNX model"):
        lift(source)


def test_bfloat16_and_int4_constants():
    source = model("y = Identity (x)")
    for kind in (ir.DataType.BFLOAT16, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN):
        tensor = ir.Tensor(np.ones(3).astype(kind.numpy()), kind, name=kind.name)
        value = ir.Value(name=kind.name, type=ir.TensorType(kind), const_value=tensor)
        source.graph.register_initializer(value)
        cast = ir.node("Cast", [value], {"to": 1})
        cast.outputs[0].name = f"{kind.name}_cast"
        source.graph.append(cast)
    dtypes = [value.dtype.name for value in lift(source).constants()]
    assert dtypes == ["bfloat16", "int4", "float8_e4m3fn"]


def test_scope_from_a_torchscript_name():
    source = model("y = Relu (x)")
    next(iter(source.graph)).name = "/encoder/layers.0/act/Relu"
    assert next(lift(source).ops).scope == "encoder.layers.0.act"
