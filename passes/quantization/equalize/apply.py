"""Write scales into the graph: what makes a value is divided by s, what reads it multiplied.

Rewrite:
    x = P(·);  y_k = Linear(x; W_k)   ->   x = P'(·) with P' = P/s;  y_k = Linear(x; W_k·diag(s))
Why: W·x = (W·diag(s))·(x/s). 1/s is a map along the channels, so it goes back by the same dataflow
as fold_affine's maps: into a norm's gain, the rows of a Linear or Conv, an embedding table; through
moves of elements, products (onto one factor, so an up-projection takes that of up⊙gate), ReLU (s is
positive) and attention: Σ_t p_t·(v_t/s) = (Σ_t p_t·v_t)/s, onto the values of each head.
Exactness: reassociates; computed in float64 and rounded once a weight; powers of two are exact.
Legality: every reader is a Linear that reads x once, with a constant weight of its own; x is no
output (with `insert` other readers stay as they are); all the way back to where 1/s stops, values
have no other reader. A GELU or SiLU lets no scale through, and neither do key-value heads that
several query heads share: their scales differ.
Effect: no op is added; with `insert`, one product a value and nothing before it changes.
References: Lin et al. 2023 (AWQ), arXiv:2306.00978; Xiao et al. 2022 (SmoothQuant),
arXiv:2211.10438.
"""

from collections.abc import Iterator

import numpy as np

from ....graph import Graph, Value
from ....graph.ops import Affine, Attention, Linear
from ...affine import Diagonal
from ...base import Refusal
from ...edits import Edit, Plan, columns_edit, ill_conditioned
from ...pull import Puller


def equalize(graph: Graph, value: Value, scale: np.ndarray, *, insert: bool = False) -> Plan:
    """Edits after which `value` is divided by `scale` and its readers are as before.

    Args:
        graph: not changed until the edits are applied, in order.
        value: [..., I].
        scale: s [I], positive.
        insert: multiply by 1/s in front of the Linears, whatever else reads the value.

    Raises:
        ValueError: scales of another length, or not positive and finite.
    """
    scale = np.asarray(scale, dtype=np.float64)
    if value.shape is None:
        return Refusal("a shape is unknown", value.name)
    if scale.shape != value.shape[-1:]:
        raise ValueError(f"expected scales {value.shape[-1:]} for {value.name}, got {scale.shape}")
    if not (np.isfinite(scale).all() and np.all(scale > 0)):
        raise ValueError(f"expected positive finite scales for {value.name}")
    if ill_conditioned(scale):
        return Refusal("the scale is too small or too large to invert", value.name)
    refusal = _refuse(graph, value, insert)
    if refusal is not None:
        return refusal
    return [] if np.all(scale == 1) else _planned(graph, value, scale, insert)


def _refuse(graph: Graph, value: Value, insert: bool) -> Refusal | None:
    if insert:
        return None if any(_linears(value)) else Refusal("no Linear reads the value", value.name)
    if value.constant is not None:
        return Refusal("the value is a constant", value.name)
    if graph.is_output(value):
        return Refusal("the value is a graph output", value.name)
    if not value.uses:
        return Refusal("nothing reads the value", value.name)
    for op, index in value.uses:
        if not isinstance(op, Linear) or index != 0:
            return Refusal("a reader is not a Linear", op.name, op.kind)
    return None


def _planned(graph: Graph, value: Value, scale: np.ndarray, insert: bool) -> Plan:
    rank = value.rank or 0
    edits: list[Edit] = []
    for linear in _linears(value):
        plan = columns_edit(linear, Diagonal.of(rank, scale, None))
        if isinstance(plan, Refusal):
            return plan
        edits += plan
    inverse = Diagonal.of(rank, 1.0 / scale, None)
    if insert:
        return [_inserted(value, inverse), *edits]
    divided = Divider(graph, gains=True).divide(value, inverse)
    return divided if isinstance(divided, Refusal) else [*divided, *edits]


def _linears(value: Value) -> Iterator[Linear]:
    """The Linears that multiply with the value, and read it once."""
    return (
        op
        for op in value.readers
        if isinstance(op, Linear) and op.inputs.count(value) == 1 and op.x is value
    )


class Divider(Puller):
    """A `Puller` whose first value may have many readers, and that passes attention."""

    def divide(self, value: Value, inverse: Diagonal) -> Plan:
        """Let the producer of `value` make inverse(value), whoever reads it."""
        return self._pull_computed(value, inverse)

    def _pull_from(self, value: Value, diagonal: Diagonal) -> Plan:
        op = value.producer
        if isinstance(op, Attention):
            return self._pull_attention(op, diagonal)
        return super()._pull_from(value, diagonal)

    def _pull_attention(self, op: Attention, diagonal: Diagonal) -> Plan:
        """Onto the values [B, G, T, E], whose heads must be those of the result [B, H, S, E]."""
        queries, values = op.require(0), op.require(2)
        if queries.shape is None or values.shape is None:
            return Refusal("a shape is unknown", op.name)
        if values.shape[1] != queries.shape[1]:
            heads = f"{queries.shape[1]} and {values.shape[1]}"
            return Refusal("query heads share their values", op.name, heads)
        if diagonal.shifts or 2 in diagonal.axes:
            return Refusal("the map varies along the tokens", op.name, op.kind)
        return self.pull(values, diagonal, op)


def _inserted(value: Value, inverse: Diagonal) -> Edit:
    """Compute inverse(value) for the Linears that read `value` now."""

    def apply(graph: Graph) -> None:
        readers = list(_linears(value))
        name = f"{value.name}_equalized"
        factor = graph.constant(inverse.scale.astype(value.dtype), f"{name}_scale")
        scope = readers[0].scope
        op = Affine(inputs=[value, factor], name=graph.fresh_name(name), scope=scope)
        graph.add_behind(value, op, (value.shape, value.dtype))
        for reader in readers:
            graph.set_input(reader, 0, op.output)

    return Edit(next(_linears(value)), apply)
