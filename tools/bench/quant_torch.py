"""torch's quantizers: torchao with torch.compile, and torch.ao's eager modules.

They live in the process that runs them: there is no file, so the size is that of the state saved.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from .quant_models import Case
from .quant_recipes import Built, Job, Recipe

Call = Callable[..., Any]
CALIBRATION = 16
"""Inputs that the static form is calibrated on: its observers run in Python."""


def plain(case: Case) -> Call:
    """torch.compile of the float model."""
    return torch.compile(case.module)


def dynamic(case: Case, *, compiled: bool) -> Call:
    """torchao: int8 weights per channel, int8 activations per token, as they come."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(case.module, Int8DynamicActivationInt8WeightConfig())
    return torch.compile(case.module) if compiled else case.module


def static(case: Case, *, is_dynamic: bool = False) -> Call:
    """torchao's PT2E flow with the quantizer for x86, lowered by Inductor with frozen weights."""
    import torch._inductor.config as inductor
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    inductor.freezing = True
    quantizer = x86.X86InductorQuantizer()
    config = x86.get_default_x86_inductor_quantization_config(is_dynamic=is_dynamic)
    quantizer.set_global(config)
    exported = torch.export.export(case.module, case.sample(0), strict=False).module()
    prepared = prepare_pt2e(exported, quantizer)
    for inputs in case.calibration_inputs(CALIBRATION):
        prepared(*inputs)
    model = convert_pt2e(prepared)
    move_exported_model_to_eval(model)
    return torch.compile(model)


def eager_dynamic(case: Case) -> Call:
    """torch.ao.quantization.quantize_dynamic: Linear layers with packed int8 weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(
            case.module, {torch.nn.Linear}, dtype=torch.qint8
        )


def build(job: Job) -> Built:
    """Nothing is written: see the module's docstring."""
    linears = sum(isinstance(m, torch.nn.Linear) for m in job.case.module.modules())
    return Built((f"{linears} Linear layers; built in the process that runs",))


METHODS: dict[str, Callable[[Case], Call]] = {
    "torch-fp32": plain,
    "torch-ao:compiled": partial(dynamic, compiled=True),
    "torch-ao:eager": partial(dynamic, compiled=False),
    "torch-ao:x86-static": static,
    "torch-ao:x86-dynamic": partial(static, is_dynamic=True),
    "torch-dynamic": eager_dynamic,
}
ABOUT = {
    "torch-fp32": "torch.compile",
    "torch-ao:compiled": "torchao int8 dynamic, torch.compile",
    "torch-ao:eager": "torchao int8 dynamic, eager",
    "torch-ao:x86-static": "torchao PT2E, x86 quantizer, torch.compile",
    "torch-ao:x86-dynamic": "torchao PT2E, x86 quantizer, dynamic, torch.compile",
    "torch-dynamic": "torch.ao.quantization.quantize_dynamic",
}
RECIPES = {
    name: Recipe("torch", about, build, ("torchao",) if "-ao" in name else ())
    for name, about in ABOUT.items()
}
