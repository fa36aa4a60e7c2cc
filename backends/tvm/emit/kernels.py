"""Calls of kernels that are written as tensor expressions.

A tensor expression may use the extents of `main` wherever it likes, also those that none of its
operands has: they become parameters of the kernel. (Relax's own `emit_te` gives each kernel
variables of its own first, so that an expression may use those of its arguments only.)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm import relax, te, tirx

PATTERN = "op_pattern"
"""Attribute of a kernel: what TVM may fuse to it, as one of its numbers."""
FUSES = 4
"""Elementwise kernels behind it."""
OPAQUE = 8
"""Nothing."""


def kernel_call(
    builder: "relax.BlockBuilder",
    compute: Callable[..., Any],
    arguments: Sequence[Any],
    name: str,
    variables: "Sequence[tirx.Var]",
    attributes: Mapping[str, Any],
) -> "relax.Call":
    """Add a kernel to the module; gives the call of it.

    Args:
        builder: the module under construction.
        compute: from tensors to a tensor, or to a list of them.
        arguments: expressions, lists of them, or what `compute` takes as it is.
        name: what the kernel is called.
        variables: all symbolic extents of `main`.
        attributes: what the kernel's function carries.
    """
    from tvm import relax, s_tir, te

    operands: list[Any] = []
    tensors: list[Any] = []

    def converted(argument: Any) -> Any:
        if isinstance(argument, list | tuple):
            return type(argument)(map(converted, argument))
        if not isinstance(getattr(argument, "ty", None), relax.TensorType):
            return argument
        operands.append(argument)
        tensors.append(_placeholder(argument, len(tensors)))
        return tensors[-1]

    found = compute(*map(converted, arguments))
    results = [found] if isinstance(found, te.Tensor) else list(found)
    function = te.create_prim_func([*tensors, *results], "int64")
    free = _free(function, tensors, results, variables) if variables else []
    if free:
        function = te.create_prim_func([*tensors, *free, *results], "int64")
    function = s_tir.renew_defs(function.without_attr("global_symbol"))
    types = [relax.TensorType(list(result.shape), result.dtype) for result in results]
    if attributes:
        function = function.with_attrs(dict(attributes))
    return relax.call_tir(builder.add_func(function, name), [*operands, *free], types)


def _placeholder(expression: "relax.Expr", position: int) -> "te.Tensor":
    from tvm import relax, te

    name = expression.name if isinstance(expression, relax.Var) else f"operand_{position}"
    return te.placeholder(list(expression.ty.shape.values), expression.ty.dtype, name)


def _free(
    function: "tirx.PrimFunc",
    tensors: "Sequence[te.Tensor]",
    results: "Sequence[te.Tensor]",
    variables: "Sequence[tirx.Var]",
) -> "list[tirx.Var]":
    """The variables that a kernel uses and that no extent of its operands or results gives."""
    import tvm
    import tvm_ffi

    seen: list[Any] = []
    tvm_ffi.structural_walk(function, (tvm.ir.Var, seen.append), order="post")
    for tensor in (*tensors, *results):
        for extent in tensor.shape:
            tvm_ffi.structural_walk(extent, (tvm.ir.Var, seen.append), order="post")
    given = [extent for tensor in (*tensors, *results) for extent in tensor.shape]
    return [
        variable
        for variable in variables
        if any(variable.same_as(one) for one in seen)
        and not any(variable.same_as(extent) for extent in given)
    ]
