"""One quantized product in ONNX, with what it computes by the formulas of the standard."""

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx_ir as ir

FLOAT = ir.TensorType(ir.DataType.FLOAT)
CODES = {
    "int8": (np.int8, -127, 127),
    "uint8": (np.uint8, 0, 255),
    "int4": (ml_dtypes.int4, -8, 7),
    "uint4": (ml_dtypes.uint4, 0, 15),
    "int2": (ml_dtypes.int2, -2, 1),
    "uint2": (ml_dtypes.uint2, 0, 3),
    "float8": (ml_dtypes.float8_e4m3fn, -100, 100),
}
STEP = np.float32(0.02)


@dataclass
class Case:
    """A product y = x·W + b.

    Attributes:
        lead: extents of x before its last.
        activation: "float", "dynamic", "static" (uint8) or "signed" (int8).
        codes: a key of CODES.
        block: weights that share a scale; 0 by columns, -1 all.
        zero: whether the weight has zero points.
        bias: "none", "row", "one" (a single number), "int32", "matrix" [1, O], "computed".
        gemm, turned: the operator is Gemm; its weight is [O, I].
        more: "none"; "two": something else reads x·W too; "self": x·W + x·W.
    """

    lead: tuple[int, ...] = (3,)
    width: int = 70
    outputs: int = 24
    activation: str = "float"
    codes: str = "int8"
    block: int = 0
    zero: bool = False
    bias: str = "row"
    gemm: bool = False
    turned: bool = False
    more: str = "none"
    named: bool = True
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


class Build:
    """The model of a case; `x` and `y` are its input and what comes out by the formulas."""

    def __init__(self, case: Case) -> None:
        self.case, self.nodes, self.held = case, [], []
        shape = (*case.lead, case.width)
        self.x = case.rng.standard_normal(shape).astype(np.float32)
        source = ir.val("x", dtype=ir.DataType.FLOAT, shape=list(shape))
        weight, dense = self._weight()
        seen, numbers = self._activation(source)
        result, self.y = self._product(seen, weight, numbers @ dense)
        result.type, result.shape = FLOAT, ir.Shape(self.y.shape)
        graph = ir.Graph(
            [source],
            [result],
            nodes=self.nodes,
            initializers=self.held,
            opset_imports={"": 25},
            name="g",
        )
        self.model = ir.Model(graph, ir_version=11)

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(name, const_value=ir.Tensor(np.ascontiguousarray(array), name=name))
        value.shape = ir.Shape(array.shape)
        self.held.append(value)
        return value

    def node(self, kind, inputs, results=(FLOAT,), **attributes):
        given = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        name = f"n{len(self.nodes)}" if self.case.named else ""
        made = ir.Node("", kind, inputs, attributes=given, num_outputs=len(results), name=name)
        for index, (value, dtype) in enumerate(zip(made.outputs, results, strict=True)):
            value.name, value.type = f"v{len(self.nodes)}_{index}", dtype
        self.nodes.append(made)
        return made.outputs

    def _weight(self) -> tuple[ir.Value, np.ndarray]:
        """The value that the product reads, and W [I, O] in float64."""
        case = self.case
        dtype, low, high = CODES[case.codes]
        blocks = -(-case.width // case.block) if case.block > 0 else 1
        shape = {0: (case.outputs,), -1: ()}.get(case.block, (blocks, case.outputs))
        codes = case.rng.integers(low, high + 1, (case.width, case.outputs)).astype(dtype)
        scale = case.rng.uniform(0.005, 0.02, shape).astype(np.float32)
        middle = 0 if low < 0 else (high + 1) // 2
        zero = case.rng.integers(max(middle - 2, low), min(middle + 2, high), shape).astype(dtype)
        arrays = [codes, scale, *([zero] if case.zero else [])]
        steps, shift = (self._spread(a.astype(np.float64)) for a in (scale, zero))
        dense = (codes.astype(np.float64) - (shift if case.zero else 0)) * steps
        along = 0 if case.block > 0 else 1
        attributes = {"axis": 1 - along if case.turned else along} if case.block >= 0 else {}
        if case.block > 0:
            attributes["block_size"] = case.block
        operands = [
            self.constant(name, a.T if case.turned else a)
            for name, a in zip(("codes", "scale", "zero"), arrays, strict=False)
        ]
        (value,) = self.node("DequantizeLinear", operands, **attributes)
        value.shape = ir.Shape(codes.T.shape if case.turned else codes.shape)
        return value, dense

    def _spread(self, array: np.ndarray) -> np.ndarray:
        if self.case.block <= 0:
            return array
        return np.repeat(array, self.case.block, axis=0)[: self.case.width]

    def _activation(self, x: ir.Value) -> tuple[ir.Value, np.ndarray]:
        kind, wide = self.case.activation, self.x.astype(np.float64)
        if kind == "float":
            return x, wide
        if kind == "dynamic":
            bytes_ = ir.TensorType(ir.DataType.UINT8)
            found = self.node("DynamicQuantizeLinear", [x], (bytes_, FLOAT, bytes_))
            low, high = min(float(self.x.min()), 0), max(float(self.x.max()), 0)
            step = np.float32((np.float32(high) - np.float32(low)) / np.float32(255))
            low, high, zero = 0, 255, float(np.clip(np.rint(-low / step), 0, 255))
        else:
            dtype, low, high, zero = {
                "static": (np.uint8, 0, 255, 128.0),
                "signed": (np.int8, -128, 127, 3.0),
            }[kind]
            step = STEP
            operands = [self.constant("step", step[()]), self.constant("z", np.array(zero, dtype))]
            stored = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
            found = [*self.node("QuantizeLinear", [x, *operands], (stored,)), *operands]
        codes = np.clip(np.rint(self.x / step) + zero, low, high)
        return self.node("DequantizeLinear", found)[0], (codes - zero) * float(step)

    def _product(self, x, weight, y):
        case, bias = self.case, self.case.rng.standard_normal(self.case.outputs)
        bias = bias.astype(np.float32)
        if case.bias == "int32":
            operands = [
                self.constant("bias_codes", np.rint(bias * 100).astype(np.int32)),
                self.constant("bias_scale", np.full(case.outputs, 0.01, np.float32)),
            ]
            bias = np.rint(bias * 100) * 0.01
            added = self.node("DequantizeLinear", operands, axis=0)[0]
        elif case.bias != "none":
            bias = bias[:1] if case.bias == "one" else bias
            added = self.constant("bias", bias[None] if case.bias == "matrix" else bias)
            added = self.node("Neg", [added])[0] if case.bias == "computed" else added
            bias = -bias if case.bias == "computed" else bias
        if case.bias == "none":
            bias, added = np.zeros(1), None
        if case.gemm:
            operands = [x, weight] + ([] if added is None else [added])
            turned = {"transB": 1} if case.turned else {}
            return self.node("Gemm", operands, **turned)[0], y + bias
        (plain,) = self.node("MatMul", [x, weight])
        if case.more == "self":
            return self.node("Add", [plain, plain])[0], y + y
        if added is None:
            return plain, y
        (total,) = self.node("Add", [plain, added])
        if case.more == "two":
            return self.node("Mul", [total, plain])[0], (y + bias) * y
        return total, y + bias
