"""The schemes by name: which number formats a product's weight and activation get."""

from dataclasses import dataclass, replace

from ...graph.onnx_quant_opset import opset_for
from .expression import FP4, UINT4
from .grid import Grid
from .rounded import Format

U8 = Grid("uint8", symmetric=False)
E4M3 = Grid("float8_e4m3fn")
E5M2 = Grid("float8_e5m2")


@dataclass(frozen=True)
class Scheme:
    """How a product y = W·x is computed.

    Attributes:
        weight: format of the weight.
        activation: format of x; None for a float x (weight-only).
        dynamic: the scale of x is found at run time, one for the whole tensor.
        by_row: or one for each of its rows (tokens).
        mixed: each product may be static, dynamic or float, whichever is better.
        stages: what rounds the weights, where the caller does not say.
        flexible: a smaller block may be used where the width is not a multiple of it.
        fixed: the bits are the algorithm's own; `stages` cannot be replaced, only added to.
    """

    weight: Format
    activation: Grid | None = None
    dynamic: bool = False
    mixed: bool = False
    stages: tuple[str, ...] = ("rtn",)
    fixed: bool = False
    flexible: bool = True
    by_row: bool = False

    @property
    def opset(self) -> int:
        """The first ONNX opset with the scheme's formats.

        Codes of one bit, and 4-bit floats, are stored as 4-bit indices of a table.
        """
        grid, block = self.weight.grid, max(self.weight.block, 0)
        by_table = grid.bits == 1 or grid.name == FP4
        needs = [opset_for(UINT4) if by_table else opset_for(grid.dtype, block=block)]
        if self.activation is not None:
            needs.append(opset_for(self.activation.dtype, block=int(self.by_row)))
        return max(needs)

    @property
    def is_static(self) -> bool:
        """Whether ranges of activations have to be known."""
        return self.activation is not None and (self.mixed or not self.dynamic)


def _int8(*, dynamic: bool = False, mixed: bool = False) -> Scheme:
    return Scheme(Format(Grid("int8")), U8, dynamic, mixed)


SCHEMES: dict[str, Scheme] = {
    "int8": _int8(),
    "int8-dynamic": _int8(dynamic=True),
    "int8-per-token": replace(_int8(dynamic=True), by_row=True),
    "int8-mixed": _int8(mixed=True),
    "w8": Scheme(Format(Grid("int8"), 128)),
    "w4": Scheme(Format(Grid("uint4", symmetric=False), 32)),
    "w4a8": Scheme(Format(Grid("uint4", symmetric=False), 32), U8, dynamic=True),
    "fp8": Scheme(Format(E4M3), E4M3),
    "fp8-e5m2": Scheme(Format(E5M2), E5M2),
    "w4-fp": Scheme(Format(Grid("float4_e2m1fn"), 64), E4M3, stages=("mse", "pow2-group")),
    "w2": Scheme(Format(Grid("uint2", symmetric=False), 64), stages=("mse",)),
    "ternary": Scheme(Format(Grid("int2")), stages=("ternary",), fixed=True),
    "binary": Scheme(Format(Grid("uint1", symmetric=False)), stages=("binary",), fixed=True),
    "partial-binary": Scheme(
        Format(Grid("uint1", symmetric=False)), stages=("partial-binary",), fixed=True
    ),
}
"""Every scheme."""

ALIASES = {
    "w8a8": "int8-dynamic",
    "w8a16": "w8",
    "w4a16": "w4",
    "w2a16": "w2",
    "w8a8-static": "int8",
    "static": "int8",
    "dynamic": "int8-dynamic",
    "int4": "w4",
    "fp8-e4m3": "fp8",
    "pb-llm": "partial-binary",
}
"""Other names that people know."""


def scheme_named(name: str) -> Scheme:
    """A scheme by its name or another that people know, in any case.

    Raises:
        ValueError: there is none.
    """
    key = name.lower().replace("_", "-")
    found = SCHEMES.get(ALIASES.get(key, key))
    if found is None:
        known = ", ".join([*SCHEMES, *(alias.upper() for alias in ALIASES if alias[0] == "w")])
        raise ValueError(f"expected scheme in {known}; got {name!r}")
    return found


def adapted(
    scheme: Scheme,
    *,
    block_size: int | None,
    per_channel: bool | None,
    symmetric: bool | None,
    reduce_range: bool,
) -> Scheme:
    """A scheme with the caller's granularity and symmetry of weights.

    Raises:
        ValueError: the wishes contradict each other or the scheme.
    """
    weight = scheme.weight
    if block_size is not None and per_channel is not None and block_size > 0:
        raise ValueError("expected block_size or per_channel, got both")
    if block_size is not None:
        weight = replace(weight, block=block_size)
        scheme = replace(scheme, flexible=False)
    elif per_channel is not None:
        weight = replace(weight, block=0 if per_channel else -1)
    if symmetric is not None and not weight.grid.is_float:
        weight = replace(weight, grid=replace(weight.grid, symmetric=symmetric))
    if reduce_range:
        if weight.grid.name != "int8":
            raise ValueError(f"expected int8 weights for reduce_range, got {weight.grid.name}")
        weight = replace(weight, grid=replace(weight.grid, name="int7"))
    if weight.grid.name == "float4_e2m1fn" and weight.block < 0:
        raise ValueError("expected a block size or a scale per channel for 4-bit floats")
    return replace(scheme, weight=weight)
