"""torch.export and torch.onnx.export, with their failures told in words that a user can act on."""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from .dynamic_dims import named_dims, widened
from .errors import ExportError, InvalidInput
from .signature import Arguments

OPSET = 23
"""The newest opset whose norms and attention ONNX Runtime 1.32 has CPU kernels for."""
HINT = (
    "Common causes: control flow that depends on tensor values (use torch.cond or torch.where), "
    "dynamic_shapes that the code does not allow, a cache object in the outputs (pass "
    "use_cache=False)."
)


def export_program(
    model: torch.nn.Module, arguments: Arguments, dynamic_shapes: Any, name: str
) -> ExportedProgram:
    """torch.export, with its failures told in one line.

    Raises:
        InvalidInput: the model itself does not run on the arguments.
        ExportError: the model runs, but cannot be captured.
    """
    shapes = named_dims(dynamic_shapes)
    args, kwargs = widened(model, _distinct(arguments), shapes)
    try:
        with torch.no_grad(), quiet():
            return _exported(model, args, kwargs, shapes)
    except Exception as error:
        raise _explained(error, model, arguments, name) from error


def _exported(model: torch.nn.Module, args: Any, kwargs: Any, shapes: Any) -> ExportedProgram:
    """torch.export; a guard on a dynamic extent that it cannot prove is left to the program.

    The first k of n tokens with k computed from n is such a case: k ≤ n is beyond its algebra.
    """
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        if not shapes or "Constraints violated" not in str(error):
            raise
        first = error
    try:
        return torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    except Exception:
        raise first from None


def _explained(
    error: Exception, model: torch.nn.Module, arguments: Arguments, name: str
) -> Exception:
    """Tell inputs that do not fit the model from a model that does not fit torch.export."""
    args, kwargs = arguments
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as own:
        return InvalidInput(f"example_inputs: {name} does not run on them: {first_line(own)}")
    place = re.search(r'File "([^"]+)", line (\d+), in \w+\n\s*(.+)', str(error))
    where = f"\nat {place[1]}:{place[2]}: {place[3]}" if place else ""
    fixes = "\n".join(line for line in str(error).splitlines() if line.startswith("  - "))
    details = "\n" + fixes if fixes else ""
    if "dynamic_shapes" in str(error) or "Constraints violated" in str(error):
        return InvalidInput(
            f"dynamic_shapes: {name} does not fit them: {first_line(error)}{details}"
        )
    return ExportError(
        f"torch.export cannot capture {name}: {first_line(error)}{details}{where}\n{HINT}"
    )


def first_line(error: Exception) -> str:
    """An exception in one line, without the terminal colours that exporters put in."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _distinct(arguments: Arguments) -> Arguments:
    """The arguments, a tensor that is given twice cloned: else the export takes both for one."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        repeated = isinstance(leaf, torch.Tensor) and id(leaf) in seen
        seen.add(id(leaf))
        return leaf.clone() if repeated else leaf

    return pytree.tree_map(own, arguments)


def to_onnx(
    program: ExportedProgram, opset: int = OPSET, names: Mapping[str, str] | None = None
) -> ir.Model:
    """An ExportedProgram as an ONNX model, by torch.onnx; the tensors are shared, not copied.

    `names` are what symbolic extents such as s77 are to be called.

    Raises:
        ExportError: an operator has no ONNX translation.
    """
    try:
        with torch.no_grad(), quiet(), _tensor_outputs(program):
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                optimize=not _holds_bfloat16(program),
            )
    except Exception as error:
        raise ExportError(f"torch.onnx cannot translate the model: {_cause(error)}") from error
    if exported is None:
        raise ExportError("torch.onnx returned no model")
    exported.rename_axes({symbol: name for symbol, name in (names or {}).items()})
    return exported.model


def _holds_bfloat16(program: ExportedProgram) -> bool:
    """The exporter's own optimizer writes float32 weights into bfloat16 convs."""
    return any(t.dtype is torch.bfloat16 for t in program.state_dict.values())


def _cause(error: BaseException) -> str:
    """What the innermost exception says: the outer ones say at which step it happened."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error) if isinstance(error, Exception) else str(error)


@contextlib.contextmanager
def _tensor_outputs(program: ExportedProgram) -> Iterator[None]:
    """For the time of a translation, let outputs that are no tensors be None: ONNX has none."""
    node = program.graph.output_node()
    results = node.args[0]
    assert isinstance(results, tuple | list)
    try:
        node.args = (tuple(r if isinstance(r, fx.Node) else None for r in results),)
        yield
    finally:
        node.args = (results,)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' progress lines and deprecation warnings off the user's terminal."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    try:
        with warnings.catch_warnings(), silent[0], silent[1]:
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


LOUD = (
    "torch.onnx",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "torch._subclasses.fake_tensor",
    "onnx_ir",
    "onnxscript",
)
"""Loggers that tell what passel raises or reports itself."""
