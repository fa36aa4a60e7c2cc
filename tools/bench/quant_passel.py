"""passel's own sides: the default passes, then Quantize, compiled for ONNX Runtime or for TVM."""

from functools import partial
from typing import Any

from ...errors import BackendUnavailable
from .quant_recipes import Built, Job, Recipe, Samples


def compiled(job: Job, *, scheme: str, weights: str = "", backend: str = "auto") -> Built:
    """passel.compile with a pass more, saved."""
    from ...compiler import compile

    model = compile(
        job.case.module,
        job.case.sample(0),
        passes=["default", quantize(job, scheme, weights)],
        backend=backend,
        threads=job.threads,
    )
    model.save(job.folder / "compiled")
    return Built(tuple(model.report.notes))


def quantize(job: Job, scheme: str, weights: str) -> Any:
    """The pass, calibrated on the case's inputs where scheme or rounding look at activations.

    Raises:
        BackendUnavailable: this version of passel has no such pass.
    """
    from ... import passes

    if not hasattr(passes, "Quantize"):
        raise BackendUnavailable("unavailable: this version of passel has no Quantize pass")
    sees = weights not in ("", "rtn") or scheme in CALIBRATED
    return passes.Quantize(
        scheme=scheme, weights=weights, calibration=Samples(job.case) if sees else None
    )


CALIBRATED = ("int8", "int8-mixed")
INT8 = ("int8-dynamic", "int8", "int8-mixed")
WEIGHTS = ("w4", "w4a8")
ON_TVM = ("int8-dynamic", "int8-per-token", "int8", "w8", "w4")
ROUNDINGS = ("rtn", "mse", "awq", "gptq", "mse+gptq", "awq+mse+gptq", "flexround", "adaround")
RECIPES = {
    **{
        f"passel-{scheme}": Recipe(
            "passel", f"Quantize(scheme='{scheme}')", partial(compiled, scheme=scheme)
        )
        for scheme in INT8
    },
    **{
        f"passel-{scheme}:smooth": Recipe(
            "passel",
            f"Quantize(scheme='{scheme}', weights='smooth')",
            partial(compiled, scheme=scheme, weights="smooth"),
        )
        for scheme in INT8
    },
    **{
        f"passel-{scheme}": Recipe(
            "passel", f"Quantize(scheme='{scheme}')", partial(compiled, scheme=scheme)
        )
        for scheme in WEIGHTS
    },
    **{
        f"passel-tvm-{scheme}": Recipe(
            "passel",
            f"Quantize(scheme='{scheme}'), backend='tvm'",
            partial(compiled, scheme=scheme, backend="tvm"),
            packages=("apache-tvm",),
        )
        for scheme in ON_TVM
    },
    "passel-tvm-int8-dynamic:smooth": Recipe(
        "passel",
        "Quantize(scheme='int8-dynamic', weights='smooth'), backend='tvm'",
        partial(compiled, scheme="int8-dynamic", weights="smooth", backend="tvm"),
        packages=("apache-tvm",),
    ),
    **{
        f"passel-w4:{name}": Recipe(
            "passel",
            f"Quantize(scheme='w4', weights='{name}')",
            partial(compiled, scheme="w4", weights=name),
            timed=False,
        )
        for name in ROUNDINGS
    },
}
