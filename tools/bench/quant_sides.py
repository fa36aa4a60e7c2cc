"""Every side of the quantization benchmark by name, and which run on which model by default."""

from fnmatch import fnmatch

from ...errors import InvalidInput
from . import quant_onnxsim, quant_openvino, quant_ort, quant_passel, quant_torch
from .quant_recipes import Recipe, family

SIDES: dict[str, Recipe] = {
    **quant_ort.RECIPES,
    **quant_openvino.RECIPES,
    **quant_torch.RECIPES,
    **quant_onnxsim.RECIPES,
    **quant_passel.RECIPES,
}
INT8 = (
    "ort-fp32", "ort-dynamic", "ort-static", "openvino-fp32", "openvino-bf16", "openvino-nncf",
    "openvino-ort-qdq", "torch-fp32", "torch-ao", "torch-dynamic", "onnxsim-w4",
    "passel-int8-dynamic", "passel-int8", "passel-int8-mixed",
)  # fmt: skip
W4 = ("ort-fp32", "ort-w4", "openvino-fp32", "openvino-w4", "passel-w4", "passel-w4a8")
DEFAULT: dict[str, tuple[str, ...]] = {"llama-decode": W4}
FLOATS = ("ort-fp32", "openvino-fp32", "openvino-bf16", "torch-fp32")
BASE = "ort-fp32"


def chosen(wanted: "list[str] | None", model: str) -> "list[str]":
    """Names of sides from families, names and patterns.

    Raises:
        InvalidInput: one of them fits no side.
    """
    found: dict[str, None] = {}
    for pattern in wanted or DEFAULT.get(model, INT8):
        fits = [name for name in SIDES if fnmatch(name, pattern) or family(name) == pattern]
        if not fits:
            families = ", ".join(dict.fromkeys(map(family, SIDES)))
            raise InvalidInput(f"side: {pattern!r} is none; there are {families}")
        found.update(dict.fromkeys(fits))
    return list(found)


def is_peer(side: str) -> bool:
    """Whether a side is a quantized model of somebody else's."""
    return not side.startswith("passel") and side not in FLOATS
