"""passel: exact graph passes for trained neural networks, and the compiler that lowers them.

Importing the package is cheap: torch, onnx and onnxruntime load when a name needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .autotuning import autotune
    from .backends.compiled import CompiledModel, load
    from .backends.onnx_ir_pass import onnx_pass
    from .backends.target import Target
    from .compiler import Optimized, compile, export_onnx, optimize
    from .passes.report import Report
    from .quantization_api import quantize

__version__ = "0.1.0"

_HOMES = {
    "CompiledModel": ".backends.compiled",
    "Optimized": ".compiler",
    "Report": ".passes.report",
    "autotune": ".autotuning",
    "Target": ".backends.target",
    "compile": ".compiler",
    "export_onnx": ".compiler",
    "load": ".backends.compiled",
    "onnx_pass": ".backends.onnx_ir_pass",
    "optimize": ".compiler",
    "quantize": ".quantization_api",
}
_SUBPACKAGES = ("backends", "errors", "graph", "models", "passes", "tools")

__all__ = [
    "CompiledModel",
    "Optimized",
    "Report",
    "Target",
    "autotune",
    "compile",
    "export_onnx",
    "load",
    "onnx_pass",
    "optimize",
    "quantize",
]


def __getattr__(name: str) -> Any:
    """Load a public name, or a subpackage, on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    if name in _SUBPACKAGES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module 'passel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES, "__version__"])
