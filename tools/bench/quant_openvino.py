"""OpenVINO, in float and with NNCF's int8 models; latency hint, the same number of threads."""

from functools import partial
from typing import Any

from . import quant_ort
from .quant_models import arrays
from .quant_recipes import Built, Job, Recipe, Samples

NEEDS = ("openvino", "nncf")
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
BFLOAT16 = {"INFERENCE_PRECISION_HINT": "bf16"}


def plain(job: Job, *, config: "dict[str, str]") -> Built:
    """The float model in OpenVINO's format."""
    _save(job, _read(job))
    return Built(config=dict(config))


def quantized(
    job: Job,
    *,
    config: "dict[str, str] | None" = None,
    transformer: bool = True,
    preset: str = "mixed",
    fast_bias: bool = True,
    smooth: float | None = None,
) -> Built:
    """nncf.quantize with all calibration inputs."""
    import nncf

    advanced: Any = None
    if smooth is not None:
        advanced = nncf.AdvancedQuantizationParameters(smooth_quant_alpha=smooth)
    model = nncf.quantize(
        _read(job),
        nncf.Dataset(Samples(job.case), arrays),
        preset=nncf.QuantizationPreset(preset),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=job.case.calibration,
        fast_bias_correction=fast_bias,
        advanced_parameters=advanced,
    )
    _save(job, model)
    return Built(config=dict(config or {}))


def compressed(job: Job, *, bits: int, config: "dict[str, str] | None" = None) -> Built:
    """nncf.compress_weights; OpenVINO quantizes the activations of such layers as they come."""
    import nncf

    mode = nncf.CompressWeightsMode.INT8_SYM if bits == 8 else nncf.CompressWeightsMode.INT4_SYM
    extra = {} if bits == 8 else {"group_size": 32, "all_layers": True}
    _save(job, nncf.compress_weights(_read(job), mode=mode, **extra))
    return Built(config=dict(config or {}))


def borrowed(job: Job) -> Built:
    """ONNX Runtime's QDQ file, read by OpenVINO."""
    quant_ort.static(job, gemms=True, method=quant_ort.MINMAX)
    source = job.folder / "model.onnx"
    import openvino

    openvino.save_model(openvino.Core().read_model(source), _path(job), compress_to_fp16=False)
    source.unlink()
    return Built()


def _read(job: Job) -> Any:
    import openvino

    return openvino.Core().read_model(job.source)


def _save(job: Job, model: Any) -> None:
    import openvino

    openvino.save_model(model, _path(job), compress_to_fp16=False)


def _path(job: Job) -> str:
    return str(job.folder / "model.xml")


def _nncf(about: str, build: Any, **settings: Any) -> Recipe:
    return Recipe("openvino", f"NNCF, {about}", partial(build, **settings), NEEDS)


RECIPES = {
    "openvino-fp32": Recipe("openvino", "float32", partial(plain, config=FLOAT32), NEEDS[:1]),
    "openvino-bf16": Recipe("openvino", "bfloat16", partial(plain, config=BFLOAT16), NEEDS[:1]),
    "openvino-nncf:transformer": _nncf("model_type=TRANSFORMER", quantized),
    "openvino-nncf:transformer-f32": _nncf(
        "model_type=TRANSFORMER, the rest in float32", quantized, config=FLOAT32
    ),
    "openvino-nncf:performance": _nncf(
        "model_type=TRANSFORMER, performance preset", quantized, preset="performance"
    ),
    "openvino-nncf:accurate-bias": _nncf(
        "model_type=TRANSFORMER, accurate bias correction", quantized, fast_bias=False
    ),
    "openvino-nncf:default": _nncf("default settings", quantized, transformer=False),
    "openvino-nncf:w8-dynamic": _nncf("8-bit weights, dynamic activations", compressed, bits=8),
    "openvino-nncf:w8-dynamic-f32": _nncf(
        "8-bit weights, dynamic activations, the rest in float32",
        compressed,
        bits=8,
        config=FLOAT32,
    ),
    "openvino-w4": _nncf("4-bit weights, groups of 32", compressed, bits=4),
    "openvino-ort-qdq": Recipe(
        "openvino", "quantize_static's QDQ file, run by OpenVINO", borrowed, NEEDS[:1]
    ),
}
