"""`passel.quantize`: a model in, a quantized ONNX file and the report of what that costs out."""

import os
from dataclasses import fields
from typing import Any

from .compiler import export_onnx
from .errors import InvalidInput
from .evaluation import Evaluate
from .passes import Quantize
from .passes.driver import Exclude, Progress
from .passes.registry import Request
from .passes.report import Report


def quantize(
    model: Any,
    example_inputs: Any,
    path: str | os.PathLike[str],
    *,
    scheme: str = "int8-dynamic",
    passes: Request = "default",
    opset: int | None = None,
    dynamic_shapes: Any = None,
    verify: bool = True,
    portable: bool = True,
    external_data: bool | None = None,
    exclude: Exclude = (),
    rtol: float | None = None,
    atol: float | None = None,
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
    **parameters: Any,
) -> Report:
    """Run the passes, quantize, and write an ONNX file; other arguments as in `export_onnx`.

    For a model to call instead of a file, give `passel.compile` the passes
    ["default", passel.passes.Quantize(...)].

    Args:
        example_inputs: None will do for ONNX.
        scheme: "int8", "int8-dynamic", "w4", ...: see `passel.passes.Quantize`.
        passes: what runs before the quantization; "none" for that alone.
        exclude: keeps every pass off some ops; `nodes_to_exclude` only the quantization.
        parameters: those of `passel.passes.Quantize`: calibration, weights, placement, budget, ...

    Raises:
        PasselError: as `export_onnx`; InvalidInput when a parameter is unknown or does not do.
    """
    before = [passes] if isinstance(passes, str) or not isinstance(passes, list | tuple) else passes
    return export_onnx(
        model,
        example_inputs,
        path,
        passes=[*before, quantizer(scheme=scheme, **parameters)],
        opset=opset,
        dynamic_shapes=dynamic_shapes,
        verify=verify,
        portable=portable,
        external_data=external_data,
        exclude=exclude,
        rtol=rtol,
        atol=atol,
        evaluate=evaluate,
        progress=progress,
    )


def quantizer(**given: Any) -> Quantize:
    """The pass, from parameters by name.

    Raises:
        InvalidInput: one is unknown, its value is, or two contradict each other.
    """
    known = [one.name for one in fields(Quantize) if one.init]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidInput(
            f"quantize: expected parameters of {', '.join(known)}; got {unknown[0]!r}"
        )
    try:
        return Quantize(**given)
    except InvalidInput:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"quantize: {error}") from error
