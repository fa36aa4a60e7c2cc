"""Placement: in which form each product is computed, by rule or by what was measured.

Rules, for ONNX Runtime on a CPU (measured on AVX-512 x86, ViT-S/16): attention's own products and
softmax stay float (a quantized softmax takes eight times as long), a convolution gains only with
ranges known beforehand and enough input channels (a patch embedding as ConvInteger takes four times
as long as in float), and a product with a small weight costs more to quantize than it saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ...graph import Op, Value, bits_of
from ...graph.ops import Conv, Elementwise, Gather, Linear
from ..base import Refusal
from ..patterns import Patterns
from .candidates import matrix_shape
from .grid import Grid
from .rounded import Format
from .schemes import Scheme

SMALLEST = 1 << 14
"""Elements of a weight below which quantizing it does not pay."""
CHANNELS = 8
"""Input channels below which an integer convolution does not pay."""
FORMS = ("static", "dynamic", "weight", "float")
EMBEDDING = Format(Grid("int8"))
"""Tables are looked up, not multiplied with: 8 bits and a scale a row, whatever the scheme."""

Placement = tuple[tuple[str, str], ...]
"""Pairs (pattern, form): which form ops take; the first that matches counts."""


@dataclass(frozen=True)
class Form:
    """How one product is computed.

    Attributes:
        weight: format of the weight.
        activation: format of what it is multiplied with; None for float.
        dynamic: whether the activation's scale is found at run time.
        by_row: whether each of its rows has one of its own then.
    """

    weight: Format
    activation: Grid | None = None
    dynamic: bool = False
    by_row: bool = False

    def __str__(self) -> str:
        grid, block = self.weight.grid, self.weight.block
        each = {0: "per channel", -1: "per tensor"}.get(block, f"by {block}")
        weight = f"{grid.name} {each}"
        if self.activation is None:
            return weight
        scales = "static" if not self.dynamic else "by row" if self.by_row else "dynamic"
        return f"{self.activation.name} {scales} × {weight}"


class Placed:
    """A placement to look forms up in.

    Attributes:
        everywhere: the rules of what pays do not count.
        patterns: of the pairs.
    """

    def __init__(self, placement: "str | Placement") -> None:
        given = pairs(placement)
        self.everywhere = placement == "all"
        self.patterns = Patterns([pattern for pattern, _ in given])
        self._forms = [form for _, form in given]

    def form(self, op: Op) -> str | None:
        """What the first pair that fits asks for."""
        place = self.patterns.first(op)
        return None if place is None else self._forms[place]


def decide(op: Op, scheme: Scheme, placement: "str | Placement | Placed") -> Form | Refusal:
    """The form of one product."""
    placed = placement if isinstance(placement, Placed) else Placed(placement)
    asked = placed.form(op)
    if asked == "float":
        return Refusal("placed in float", op.name)
    if isinstance(op, Gather):
        return Form(EMBEDDING)
    if asked is None and not placed.everywhere:
        refusal = unprofitable(op, scheme)
        if refusal is not None:
            return refusal
    return form_of(op, scheme, asked)


def pairs(placement: "str | Placement") -> Placement:
    """The pairs of a placement that is not a name."""
    return () if isinstance(placement, str) else placement


def form_of(op: Op, scheme: Scheme, asked: str | None) -> Form:
    """The form asked for, or else the scheme's own."""
    weight = scheme.weight
    if isinstance(op, Conv) and weight.block > 0:
        weight = Format(weight.grid, 0)
    elif weight.block > 0 and scheme.flexible:
        least = KERNELS.get(bits_of(weight.grid.dtype), (16,))[0]
        weight = Format(weight.grid, fitting(weight.block, matrix_shape(op)[1], least))
    if asked == "weight" or scheme.activation is None:
        return Form(weight)
    is_wide = isinstance(op, Linear) and follows_activation(op.require(0))
    dynamic = scheme.dynamic or (scheme.mixed and is_wide)
    if asked in ("static", "dynamic"):
        dynamic = asked == "dynamic"
    by_row = dynamic and scheme.by_row and isinstance(op, Linear)
    return Form(weight, scheme.activation, dynamic, by_row)


def fitting(block: int, width: int, least: int) -> int:
    """The largest of `block`, its half, ... down to `least` that divides a width; or `block`."""
    size = block
    while size >= least:
        if width % size == 0:
            return size
        size //= 2
    return block


def unprofitable(op: Op, scheme: Scheme) -> Refusal | None:
    """Why quantizing an op would gain nothing on the target."""
    size = prod(matrix_shape(op))
    if size < SMALLEST:
        return Refusal("the weight is too small to gain by it", op.name, f"{size} elements")
    if isinstance(op, Conv):
        return _conv_refusal(op, scheme)
    return None


def _conv_refusal(op: Conv, scheme: Scheme) -> Refusal | None:
    channels = op.weight.shape[1] if op.weight.shape is not None else 0
    if scheme.activation is None:
        return Refusal("no kernel multiplies a convolution's weight in this format", op.name)
    if scheme.dynamic:
        return Refusal("a dynamically quantized convolution is slower than a float one", op.name)
    if op.groups == 1 and isinstance(channels, int) and channels < CHANNELS:
        return Refusal("a convolution of few channels is faster in float", op.name)
    return None


KERNELS = {2: (32, 64, 128), 4: (16, 32, 64, 128, 256), 8: (16, 32, 64, 128, 256)}
"""Blocks that ONNX Runtime 1.32 has fast products for on a CPU, by bits as stored."""
IN_FLOAT = "no kernel: multiplied in float, with the weight dequantized"
BY_ROW = "no kernel in ONNX Runtime, which multiplies in float: TVM has one (backend='tvm')"
BOTH_SIDES = "ONNX Runtime rounds what it is multiplied with to 8 bits too, by blocks"


def kernel_notes(op: Op, form: Form) -> tuple[str, ...]:
    """What a user should know of how a form runs: without a kernel, or in fewer bits than asked."""
    grid, block = form.weight.grid, form.weight.block
    stored = 0 if grid.is_float else bits_of(grid.dtype)
    if isinstance(op, Gather):
        return ()
    if form.by_row:
        return (BY_ROW,)
    if form.activation is not None and (isinstance(op, Conv) or not form.dynamic):
        return () if stored == 8 and block <= 0 and not form.dynamic else (IN_FLOAT,)
    if isinstance(op, Conv) or (block > 0 and block not in KERNELS.get(stored, ())) or not stored:
        return (IN_FLOAT,)
    return (BOTH_SIDES,) if form.activation is None and stored != 4 else ()


def follows_activation(value: Value) -> bool:
    """Whether a value is the result of a gate or nonlinearity: FC2 and down-projections read those.

    Their ranges are widest; they get the higher precision first (Chen et al. 2025,
    arXiv:2505.14302).
    """
    producer = value.producer
    while producer is not None and not isinstance(producer, Elementwise | Linear | Conv):
        operand = producer.operand(0)
        producer = None if operand is None or len(producer.outputs) > 1 else operand.producer
    return isinstance(producer, Elementwise) and producer.fn in _NONLINEAR


_NONLINEAR = ("gelu", "gelu_tanh", "silu", "relu", "sigmoid", "tanh", "mul")


def check_placement(placement: "str | Sequence[Sequence[str]]") -> None:
    """Check what a caller gave.

    Raises:
        ValueError: it is neither a known name nor pairs of a pattern and a form.
    """
    if isinstance(placement, str):
        if placement not in ("auto", "all", "measured"):
            raise ValueError(
                "expected placement 'auto', 'all', 'measured' or pairs of a pattern and a form, "
                f"got {placement!r}"
            )
        return
    for pair in placement:
        if len(pair) != 2 or pair[1] not in FORMS:
            raise ValueError(f"expected (pattern, one of {FORMS}) in placement, got {pair!r}")
