"""onnxsim's weight rounding at 4 bits, for the error: no runtime has fast kernels for its files.

All share one grid, symmetric in blocks of 32, chosen by `quantize_weight_only_int4`, which does
nothing below opset 21.
"""

from functools import partial

from ...errors import BackendUnavailable
from .quant_recipes import Built, Job, Recipe, onnx_inputs

SAMPLES = 16
OPSET = 21
METHODS = ("rtn", "awq", "gptq", "flexround", "adaround")


def rounded(job: Job, *, method: str) -> Built:
    """4-bit weights by one method; all but rtn see the first calibration inputs."""
    import onnx
    import onnxsim
    from onnx.version_converter import convert_version

    source = convert_version(onnx.load(job.source), OPSET)
    model = onnxsim.quantize_weight_only_int4(source)
    if method != "rtn":
        feeds = list(job.feeds(onnx_inputs(job.source), SAMPLES))
        model = getattr(onnxsim, f"apply_{method}")(source, model, calibration_data=feeds)
    onnx.save(model, job.folder / "model.onnx")
    types = [tensor.data_type for tensor in model.graph.initializer]
    count = types.count(onnx.TensorProto.INT4)
    if not count:
        raise BackendUnavailable("onnxsim finds no weight to quantize in this model")
    return Built((f"{count} weights in 4 bits",))


RECIPES = {
    f"onnxsim-w4:{method}": Recipe(
        "onnxruntime",
        f"onnxsim, {method}, 4-bit weights",
        partial(rounded, method=method),
        ("onnxsim",),
        timed=False,
    )
    for method in METHODS
}
