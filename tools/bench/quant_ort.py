"""ONNX Runtime's own quantizers, with the settings that its documentation offers.

Each starts from quant_pre_process, as the documentation asks. The weights are int8 and the
activations uint8, the pair with fast kernels on x86.
"""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from .quant_recipes import Built, Job, Recipe, onnx_inputs

GEMMS = ["MatMul", "Gemm"]
HISTOGRAM_SAMPLES = 16
"""ONNX Runtime's histogram calibrator holds every activation of every sample."""


def plain(job: Job) -> Built:
    """The float model as it is."""
    shutil.copyfile(job.source, job.folder / "model.onnx")
    return Built()


def dynamic(
    job: Job, *, per_channel: bool = False, gemms: bool = False, prepare: bool = True
) -> Built:
    """quantize_dynamic: int8 weights, activations quantized as they come."""
    source = prepared(job) if prepare else job.source
    quantize_dynamic(
        source,
        job.folder / "model.onnx",
        op_types_to_quantize=GEMMS if gemms else None,
        per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )
    return _done(job)


def static(
    job: Job, *, gemms: bool, method: CalibrationMethod, samples: int | None = None
) -> Built:
    """quantize_static: QDQ, uint8 activations, int8 weights per channel."""
    source = prepared(job)
    quantize_static(
        source,
        job.folder / "model.onnx",
        Reader(job, samples),
        op_types_to_quantize=GEMMS if gemms else None,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=method,
        # A product of two activations is not worth its rounding: attention has fast float kernels.
        extra_options={"MatMulConstBOnly": True} if gemms else {},
    )
    return _done(job)


def four_bits(job: Job, *, symmetric: bool = True, block: int = 32) -> Built:
    """MatMulNBits: 4-bit weights in blocks, int8 arithmetic (accuracy level 4)."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(prepared(job)), block_size=block, is_symmetric=symmetric, accuracy_level=4
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(job.folder / "model.onnx"), False)
    ops = [node.op_type for node in quantizer.model.model.graph.node]
    left = f", {ops.count('Gemm')} Gemm left in float" if "Gemm" in ops else ""
    _done(job)
    return Built((f"{ops.count('MatMulNBits')} MatMulNBits{left}",))


class Reader(CalibrationDataReader):
    """The calibration inputs, one at a time."""

    def __init__(self, job: Job, samples: int | None) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = job.feeds(onnx_inputs(job.source), samples)

    def get_next(self) -> "dict[str, np.ndarray] | None":
        """The next input, or None after the last."""
        return next(self._feeds, None)


def prepared(job: Job) -> Path:
    """The source after ONNX Runtime's preparation for quantization."""
    path = job.folder / "prepared.onnx"
    try:
        quant_pre_process(job.source, path)
    except Exception:  # symbolic shape inference does not know every operator
        quant_pre_process(job.source, path, skip_symbolic_shape=True)
    return path


def _done(job: Job) -> Built:
    (job.folder / "prepared.onnx").unlink(missing_ok=True)
    return Built()


def _dynamic(about: str, build: Callable[[Job], Built]) -> Recipe:
    return Recipe("onnxruntime", f"quantize_dynamic, {about}", build)


def _static(about: str, gemms: bool, method: CalibrationMethod, samples: int | None) -> Recipe:
    build = partial(static, gemms=gemms, method=method, samples=samples)
    return Recipe("onnxruntime", f"quantize_static QDQ u8s8 per channel, {about}", build)


MINMAX, PERCENTILE = CalibrationMethod.MinMax, CalibrationMethod.Percentile
ENTROPY, FEW = CalibrationMethod.Entropy, HISTOGRAM_SAMPLES
RECIPES = {
    "ort-fp32": Recipe("onnxruntime", "torch.onnx's export", plain),
    "ort-dynamic:default": _dynamic("default settings", partial(dynamic, prepare=False)),
    "ort-dynamic:prepared": _dynamic("default settings after quant_pre_process", dynamic),
    "ort-dynamic:per-channel": _dynamic("per channel", partial(dynamic, per_channel=True)),
    "ort-dynamic:gemms": _dynamic("MatMul and Gemm only", partial(dynamic, gemms=True)),
    "ort-dynamic:gemms-per-channel": _dynamic(
        "MatMul and Gemm only, per channel", partial(dynamic, gemms=True, per_channel=True)
    ),
    "ort-static:gemms": _static("MatMul and Gemm with a constant, min-max", True, MINMAX, None),
    "ort-static:gemms-percentile": _static(
        "MatMul and Gemm with a constant, 99.999th percentile", True, PERCENTILE, FEW
    ),
    "ort-static:gemms-entropy": _static(
        "MatMul and Gemm with a constant, entropy", True, ENTROPY, FEW
    ),
    "ort-static:all": _static("every op, min-max", False, MINMAX, None),
    "ort-w4:symmetric": Recipe(
        "onnxruntime", "MatMulNBits, blocks of 32, accuracy level 4", four_bits
    ),
    "ort-w4:asymmetric": Recipe(
        "onnxruntime",
        "MatMulNBits with zero points, blocks of 32, accuracy level 4",
        partial(four_bits, symmetric=False),
    ),
}
