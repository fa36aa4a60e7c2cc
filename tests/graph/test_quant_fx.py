"""Quantization in torch: quantized_decomposed read, written, saved and exported."""

import functools
import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.ao.quantization.fx import _decomposed

from passel.graph import fx
from passel.graph import ops as o
from passel.graph.quant_numbers import dynamically_quantized, is_integer
from tests.graph.quant_cases import FORMATS, LAYOUTS, dtype_of, round_trip, store

_ = _decomposed  # importing it registers the operators
lib = torch.ops.quantized_decomposed
X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
TORCH = [name for name in FORMATS if name != "float4_e2m1fn"]


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(10, 8, generator=generator))
        self.bias = nn.Parameter(torch.randn(10, generator=generator))

    def forward(self, x):
        return torch.relu(nn.functional.linear(x, self.weight, self.bias))


@functools.cache
def exported_product():
    return torch.export.export(Product(), (X,))


def product():
    graph = fx.lift(exported_product())
    (linear,) = graph.walk(o.Linear)
    return graph, linear


def run(program):
    return program.module()(X).detach().numpy()


def exported(function, *inputs):
    class Module(nn.Module):
        def forward(self, *args):
            return function(*args)

    return torch.export.export(Module(), inputs)


def facts(op):
    zero = op.zero_point
    codes = op.output if isinstance(op, o.Quantize) else op.x
    return codes.dtype, op.axis, op.block, None if zero is None else zero.dtype


def is_spelled_out(name, axis, block):
    """Whether torch has no one operator for it, so that it is read as ordinary ops."""
    extent = 1 if axis is None else (10, 8)[axis]
    return bool(axis is not None and name.startswith("float")) or bool(block and extent % block)


def saved(program):
    """The program saved, loaded and decomposed, which must not change what it computes."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer)
    np.testing.assert_array_equal(run(loaded), run(program))
    np.testing.assert_array_equal(run(loaded.run_decompositions()), run(program))
    return loaded


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(("axis", "block"), [*LAYOUTS[:3], (1, 4), (0, 5), (1, 5), (0, 3), (1, 1)])
def test_a_stored_weight(name, axis, block):
    graph, linear = product()
    bias = linear.bias.array()
    weight = store(graph, linear, dtype_of(name), axis, block)
    want = np.maximum(X.numpy() @ weight.T + bias, 0)
    before = facts(next(graph.walk(o.Dequantize)))
    program = graph.binding.lower(graph)
    assert np.abs(run(program) - want).max() < 1e-5
    if name in ("uint4", "float8_e4m3fn"):
        program = saved(program)
    found = fx.lift(program)
    if is_spelled_out(name, axis, block) or block == 1:
        assert list(found.walk(o.Dequantize)) == []
        return
    (dequantize,) = found.walk(o.Dequantize)
    if block and axis == 0:  # blocks are along the last axis in torch: it is turned
        assert facts(dequantize) == (before[0], 1, block, before[3])
    else:
        assert facts(dequantize) == before
    for _ in range(2):
        np.testing.assert_array_equal(run(found.binding.lower(found)), run(program))
        found.update(dequantize)  # written anew, it says the same
    assert not any(v.dtype == np.int8 for v in found.constants() if name in ("int4", "int2"))


def test_codes_of_four_bits_are_bytes_of_the_program_and_shared_with_it():
    graph, linear = product()
    store(graph, linear, dtype_of("int4"), 0)
    program = graph.binding.lower(graph)
    buffers = [t for t in program.state_dict.values() if t.dtype == torch.int8]
    assert [tuple(t.shape) for t in buffers] == [(10, 8)]
    found = fx.lift(program)
    (codes,) = [v for v in found.constants() if v.dtype == dtype_of("int4")]
    assert codes.constant.nbytes == 40
    again = found.binding.lower(found)
    (kept,) = [t for t in again.state_dict.values() if t.dtype == torch.int8]
    assert kept.data_ptr() == buffers[0].data_ptr()


def test_two_readers_of_narrow_codes_read_one_value():
    codes = torch.tensor([[-8, 7], [1, 2]], dtype=torch.int8)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", codes)

        def forward(self, x):
            call = lib.dequantize_per_tensor.default
            return x + call(self.codes, 0.5, 0, -8, 7, torch.int8), call(
                self.codes, 0.25, 0, -8, 7, torch.int8
            )

    graph = fx.lift(torch.export.export(Two(), (torch.zeros(2, 2),)))
    first, second = graph.walk(o.Dequantize)
    assert first.x is second.x
    assert first.x.dtype == dtype_of("int4")
    np.testing.assert_array_equal(first.x.array().astype(int), codes.numpy())


def test_codes_beyond_the_range_that_the_call_names_are_not_cut():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.tensor([-100, 100], dtype=torch.int8))

        def forward(self, x):
            return x + lib.dequantize_per_tensor.default(self.codes, 0.5, 0, -8, 7, torch.int8)

    graph = fx.lift(torch.export.export(Wide(), (torch.zeros(2),)))
    (op,) = graph.walk(o.Dequantize)
    assert op.x.dtype == np.int8
    assert graph.run([np.zeros(2, np.float32)])[0].tolist() == [-50, 50]


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize(("axis", "block"), [(None, 0), (2, 0), (1, 0), (2, 4), (1, 3)])
def test_activations(name, axis, block):
    graph, linear = product()
    dtype, integer = dtype_of(name), is_integer(dtype_of(name))
    shape = () if axis is None else (X.shape[axis],)
    if block:
        shape = tuple(-(-n // block) if k == axis else n for k, n in enumerate(X.shape))
    scale = np.random.default_rng(2).uniform(0.3, 0.5, shape).astype(np.float32)
    zero = np.full(shape, 1) if integer else None
    first, _ = round_trip(graph, linear.x, dtype, scale, zero, axis, block)
    operands = [X.numpy(), scale, None if zero is None else zero.astype(dtype)]
    codes = graph.binding.evaluate(first, operands)
    assert codes[0].dtype in (dtype, np.int8, np.uint8)
    program = graph.binding.lower(graph)
    expanded = scale if axis is None else scale.reshape([-1 if k == axis else 1 for k in range(3)])
    if block:
        expanded = np.repeat(scale, block, axis).take(range(X.shape[axis]), axis)
    ratio = X.numpy() / expanded
    if integer:
        low, high = {"8": (-128, 127), "4": (-8, 7), "2": (-2, 1)}[name[-1]]
        shift = -low if name.startswith("u") else 0
        ratio = np.clip(np.rint(ratio) + 1, low + shift, high + shift) - 1
    rounded = ratio.astype(dtype).astype(np.float32) if not integer else ratio
    weight, bias = linear.weight.array(), linear.bias.array()
    assert np.abs(run(program) - np.maximum(rounded * expanded @ weight.T + bias, 0)).max() < 1e-4
    found = fx.lift(program)
    if integer and not block:
        (quantize,), (dequantize,) = found.walk(o.Quantize), found.walk(o.Dequantize)
        assert facts(quantize) == facts(dequantize) == (dtype, axis, 0, dtype)
        for op in (quantize, dequantize):
            found.update(op)
    np.testing.assert_array_equal(run(found.binding.lower(found)), run(program))


def test_what_torch_has_no_type_for():
    graph, linear = product()
    store(graph, linear, dtype_of("float4_e2m1fn"), 1, 4)
    with pytest.raises(
        TypeError, match="Dequantize 'dequantize': expected codes of a type that tor"
    ):
        graph.binding.lower(graph)


def test_a_narrowed_range_is_no_word_of_the_vocabulary():
    """Symmetric int8 without −128 saturates elsewhere: codes differ, their meaning not."""

    def function(x):
        codes = lib.quantize_per_tensor.default(x, 0.01, 0, -127, 127, torch.int8)
        return lib.dequantize_per_tensor.default(codes, 0.01, 0, -127, 127, torch.int8)

    graph = fx.lift(exported(function, X))
    assert [type(op) for op in graph.ops] == [o.Opaque, o.Dequantize]
    assert graph.run([-100 * np.ones(X.shape, np.float32)])[0].min() == np.float32(-1.27)


def test_scales_as_tensors():
    scale, zero = torch.tensor([0.05]), torch.tensor([3])

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", scale)
            self.register_buffer("zero", zero)

        def forward(self, x):
            codes = lib.quantize_per_tensor.tensor(x, self.scale, self.zero, 0, 15, torch.uint8)
            return lib.dequantize_per_tensor.tensor(
                codes, self.scale, self.zero, 0, 15, torch.uint8, out_dtype=torch.float16
            )

    graph = fx.lift(torch.export.export(Module(), (X,)))
    (quantize,), (dequantize,) = graph.walk(o.Quantize), graph.walk(o.Dequantize)
    uint4 = dtype_of("uint4")
    assert facts(quantize) == facts(dequantize) == (uint4, None, 0, uint4)
    assert dequantize.output.dtype == np.float16
    want = graph.run([X.numpy()])[0]
    assert (want.min(), want.max()) == (np.float16(-0.15), np.float16(0.6))
    for op in (quantize, dequantize):
        graph.update(op)
    np.testing.assert_array_equal(graph.run([X.numpy()])[0], want)


def dynamic(x):
    scale, zero = lib.choose_qparams.tensor(x, 0, 255, torch.finfo(torch.float32).eps, torch.uint8)
    codes = lib.quantize_per_tensor.tensor(x, scale, zero, 0, 255, torch.uint8)
    return lib.dequantize_per_tensor.tensor(codes, scale, zero, 0, 255, torch.uint8)


def test_dynamic_quantization():
    graph = fx.lift(exported(dynamic, X))
    assert [type(op) for op in graph.ops] == [o.DynamicQuantize, o.Dequantize]
    codes, scale, zero = dynamically_quantized(X.numpy())
    want = (codes.astype(np.float32) - zero) * scale
    for _ in range(3):
        got = graph.run([X.numpy()])[0]
        assert np.abs(got - want).max() < 1e-6
        graph = fx.lift(graph.binding.lower(graph))
        assert [type(op) for op in graph.ops] == [o.DynamicQuantize, o.Dequantize]


def test_dynamic_quantization_made_by_a_pass():
    graph, linear = product()
    x, reader = linear.x, linear
    op = o.DynamicQuantize(inputs=[x])
    types = [(x.shape, np.dtype(np.uint8)), ((), np.dtype(np.float32)), ((), np.dtype(np.uint8))]
    graph.add(op, *types, before=reader)
    back = graph.add(o.Dequantize(inputs=list(op.outputs)), (x.shape, x.dtype), before=reader)
    graph.set_input(reader, 0, back.output)
    codes, scale, zero = dynamically_quantized(X.numpy())
    for got, want in zip(
        graph.binding.evaluate(op, [X.numpy()]), (codes, scale, zero), strict=True
    ):
        np.testing.assert_allclose(got, want)
    x_hat = (codes.astype(np.float32) - zero) * scale
    weight, bias = linear.weight.array(), linear.bias.array()
    want = np.maximum(x_hat @ weight.T + bias, 0)
    for _ in range(3):
        program = graph.binding.lower(graph)
        assert np.abs(run(program) - want).max() < 1e-5
        graph = fx.lift(program)
        kinds = [type(op) for op in graph.ops][:3]
        assert kinds == [o.DynamicQuantize, o.Dequantize, o.Linear]


@pytest.mark.parametrize("change", ["eps", "range", "reader"])
def test_another_choice_of_scale_stays_as_it_is(change):
    def function(x):
        eps, high = (1e-3 if change == "eps" else EPS), (15 if change == "range" else 255)
        scale, zero = lib.choose_qparams.tensor(x, 0, high, eps, torch.uint8)
        codes = lib.quantize_per_tensor.tensor(x, scale, zero, 0, high, torch.uint8)
        more = lib.quantize_per_tensor.tensor(-x, scale, zero, 0, high, torch.uint8)
        return (codes, more) if change == "reader" else codes

    EPS = torch.finfo(torch.float32).eps
    program = exported(function, X)
    graph = fx.lift(program)
    assert list(graph.walk(o.DynamicQuantize)) == []
    expected = program.module()(X)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(graph.run([X.numpy()]), expected, strict=True):
        np.testing.assert_array_equal(got.astype(int), want.numpy().astype(int))


def test_float64_is_quantized_through_float32():
    graph = fx.lift(exported(torch.neg, X.double()))
    round_trip(graph, graph.inputs[0], np.dtype(np.int8), 0.1)
    (got,) = graph.run([X.double().numpy()])
    assert got.dtype == np.float64
    want = -np.clip(np.rint(X.numpy() / np.float32(0.1)), -128, 127) * 0.1
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "axis"), [("int8", None), ("int8", 0), ("uint8", None)])
def test_the_onnx_exporter_takes_it(name, axis):
    graph, linear = product()
    weight = store(graph, linear, dtype_of(name), axis)
    round_trip(graph, linear.x, np.dtype(np.uint8), 0.05, 100)
    program = graph.binding.lower(graph)
    onnx_program = torch.onnx.export(program, dynamo=True, verbose=False)
    kinds = [node.op_type for node in onnx_program.model.graph]
    assert kinds.count("DequantizeLinear") >= 1
    assert weight.shape == (10, 8)
    (got,) = onnx_program(X)
    np.testing.assert_allclose(got.numpy(), run(program), atol=1e-5)
