"""Raise the opset of a model: newer opsets say attention, GELU and RMS norm in one operator."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnxscript.version_converter import ConvertVersionPass

SCRIPT_OPSET = 18
"""From here on onnxscript converts; below, onnx's own converter has to."""


def raise_opset(model: ir.Model, target: int) -> tuple[ir.Model, str]:
    """The model at opset `target`, or the model as it is and the reason why.

    A model that is at `target` or above already is given back, with no reason.
    """
    current = model.opset_imports.get("", target)
    if current >= target:
        return model, ""
    try:
        return _converted(model.clone(), current, target), ""
    except Exception as error:
        cause = str(error).strip().split("\n")[0] or type(error).__name__
        return model, f"left at opset {current}: the conversion to {target} failed ({cause})"


def _converted(copy: ir.Model, current: int, target: int) -> ir.Model:
    with _quiet():
        if current < SCRIPT_OPSET < target:
            ConvertVersionPass(SCRIPT_OPSET, fallback=True)(copy)
        ConvertVersionPass(target, fallback=True)(copy)
    for node in ir.traversal.RecursiveGraphIterator(copy.graph):
        # The converter skips a node it has no rule for, and only logs that.
        if not node.domain and node.version not in (None, target):
            raise ValueError(f"no rule for {node.op_type} {node.name!r}")
    if copy.opset_imports.get("") != target:
        raise ValueError("the converter gave up")
    _check_schemas(copy, target)
    return copy


def _check_schemas(model: ir.Model, target: int) -> None:
    """Every operator exists at the target, and has the attributes that its node gives."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain:
            continue
        schema = onnx.defs.get_schema(node.op_type, target)
        unknown = set(node.attributes) - set(schema.attributes)
        if unknown or len(node.inputs) > schema.max_input:
            raise ValueError(f"{node.op_type} {node.name!r} does not fit opset {target}")


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter logs what is told here as a reason."""
    logger = logging.getLogger("onnxscript.version_converter")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
