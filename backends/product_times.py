"""How long a product takes in float, static and dynamic 8 bits: measured on ONNX Runtime.

Each form runs as a model of its own, with the operator that `integer_products` writes, all forms of
one shape interleaved.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch

from .choices import SessionChoice
from .measure import interleaved, medians
from .onnxruntime import Session
from .ort_forms import CONTRIB

SECONDS = 0.06
"""Time for each form of each shape."""
LARGEST = 1 << 26
"""Elements of a weight above which nothing is measured: it would take too long to make."""
Shape = tuple[int, int, int]


def time_products(
    shapes: Sequence[Shape], target: str, choice: SessionChoice
) -> list[dict[str, float]]:
    """Milliseconds of each form, "float", "static" and "dynamic", for products [rows, I]·[I, O]."""
    return [_times(shape, target, choice) for shape in shapes]


def _times(shape: Shape, target: str, choice: SessionChoice) -> dict[str, float]:
    rows, width, outputs = shape
    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.standard_normal((rows, width)).astype(np.float32))
    codes = generator.integers(-127, 128, (width, outputs)).astype(np.int8)
    models = {form: _model(form, shape, codes) for form in ("float", "static", "dynamic")}
    sessions = {form: Session(model, target, choice) for form, model in models.items()}
    calls = {
        form: (lambda session=session: session.run_tensors([x]))
        for form, session in sessions.items()
    }
    return medians(interleaved(calls, seconds=SECONDS))


def _model(form: str, shape: Shape, codes: np.ndarray) -> ir.Model:
    rows, width, outputs = shape
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=[rows, width])
    held: list[ir.Value] = []

    def constant(name: str, array: np.ndarray) -> ir.Value:
        held.append(ir.val(name, const_value=ir.Tensor(array, name=name)))
        return held[-1]

    bias = constant("bias", np.ones(outputs, np.float32))
    nodes = []
    if form == "float":
        weight = constant("weight", codes.astype(np.float32) / 127)
        nodes = [ir.Node("", "Gemm", [x, weight, bias])]
    else:
        weight = constant("codes", codes)
        scale = constant("scale", np.full(outputs, 1 / 127, np.float32))
        if form == "dynamic":
            nodes = [ir.Node(CONTRIB, "DynamicQuantizeMatMul", [x, weight, scale, None, bias])]
        else:
            step, zero = (
                constant("step", np.array(0.03, np.float32)),
                constant("zero", np.array(128, np.uint8)),
            )
            quantize = ir.Node("", "QuantizeLinear", [x, step, zero])
            quantize.outputs[0].name = "q"
            inputs = [quantize.outputs[0], weight, step, scale, zero, None, bias]
            nodes = [quantize, ir.Node(CONTRIB, "MatMulIntegerToFloat", inputs)]
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([rows, outputs])
    graph = ir.Graph(
        [x], [y], nodes=nodes, initializers=held, opset_imports={"": 21, CONTRIB: 1}, name=form
    )
    return ir.Model(graph, ir_version=10)
