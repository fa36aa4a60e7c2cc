"""Which emission an op gets: the first pattern that matches, else the spelling of its kind."""

from collections.abc import Callable

from ....graph import Op
from ....graph.ops import Linear
from ..machine import Machine
from .emitter import Emission, Emitter

Pattern = Callable[[Op, Machine], Emission | None]
"""Looks at an op and at its producers; None where it does not apply."""

PATTERNS: list[Pattern] = []
"""The particular before the general."""


def emission_of(op: Op, machine: Machine) -> Emission | None:
    """How an op is emitted; None where nothing can spell it."""
    for pattern in PATTERNS:
        found = pattern(op, machine)
        if found is not None:
            return found
    spell = SPELLINGS.get(type(op))
    if spell is None:
        return None
    reads = tuple(v for v in op.inputs if v is not None and v.constant is None)
    return Emission(op, reads, lambda emitter: spell(emitter, op))


def linear(emitter: Emitter, op: Linear) -> list:
    from tvm import relax

    weight = op.weight.array() if op.weight.constant is not None else None
    assert weight is not None
    packed = emitter.constant(weight.T if op.layout == "oi" else weight, op.weight.name)
    product = emitter.emit(relax.op.matmul(emitter[op.x], packed))
    if op.bias is None:
        return [product]
    return [emitter.emit(relax.op.add(product, emitter[op.bias]))]


SPELLINGS: dict[type[Op], Callable] = {Linear: linear}
