"""Why the tokens that a top-k drops have to be computed all the same."""

from ...graph import Op, Value
from ...graph.ops import Attention, Conv, Linear, MatMul, TopK
from ..axis_roles import AxisClasses
from ..base import Refusal
from .demand import Context, wants
from .plan import Plan
from .selection import WHOLE, Choice, Chosen, normal

PRODUCTS = (Linear, MatMul, Attention, Conv)


def of_choice(top: TopK, choice: Choice | None, plan: Plan, classes: AxisClasses) -> Refusal | None:
    """Why the plan for a choice is not to be carried out, if there is a reason."""
    if choice is None:
        return Refusal("no mask is made of the positions that it chooses", top.name)
    counts = f"{choice.count} of {choice.extent}"
    if choice.count == 0:
        return Refusal("no token is kept", top.name, counts)
    if isinstance(choice.extent, int) and isinstance(choice.count, int):
        if choice.count == choice.extent:
            return Refusal("every token is kept", top.name, counts)
        if choice.count > choice.extent:
            return Refusal("more tokens are asked for than there are", top.name, counts)
    keys = _unmasked_keys(choice, plan, classes)
    if keys is not None:
        return Refusal("dropped tokens are read as keys", keys.name, keys.kind)
    if any(isinstance(op, PRODUCTS) for op in plan.spared):
        return None
    reader = _reads_own_block(top, plan)
    if reader is not None:
        return Refusal("the router reads the block's own output", reader.name)
    return Refusal("no product is computed for kept tokens alone", top.name)


def takes_nearly_all(op: Op, classes: AxisClasses) -> bool:
    """Whether an op selects so many tokens that it is left as it is."""
    value, reads = op.require(0), wants(op, 0, WHOLE, Context())
    if reads is None or value.shape is None or value.constant is not None:
        return False
    kept = normal(reads[0].box, value.shape)
    return any(a not in kept and classes.role(value, a) == "tokens" for a in reads[0].box)


def _reads_own_block(top: TopK, plan: Plan) -> Op | None:
    """An op of the block that the scores depend on: it is needed whole before there is a choice."""
    bases = {value.shape: _base(value, plan) for value in plan.spreads}
    outside = _ancestors([op for op in bases.values() if op is not None], plan)
    needed = _ancestors([top], plan) - outside
    inside = [op for op in plan.ops if op in needed and op.output.shape in bases]
    return inside[-1] if inside else None


def _base(value: Value, plan: Plan) -> Op | None:
    """What makes the value that stands where the choice drops."""
    assert value.producer is not None
    return value.producer.require(plan.spreads[value].base).producer


def _ancestors(ops: list[Op], plan: Plan) -> set[Op]:
    """The ops and what they depend on, back to the first op that the plan visits."""
    first = min((plan.order[op] for op in plan.ops), default=0)
    seen: set[Op] = set()
    worklist = list(ops)
    while worklist:
        op = worklist.pop()
        if op not in seen and plan.order.get(op, -1) >= first:
            seen.add(op)
            worklist += [v.producer for v in op.inputs if v is not None and v.producer is not None]
    return seen


def _unmasked_keys(choice: Choice, plan: Plan, classes: AxisClasses) -> Op | None:
    """An attention whose kept queries see keys that the choice drops."""
    for (op, _), found in plan.reads.items():
        summed = _summed(op)
        if summed is None:
            continue
        query, (index, axis) = summed
        for box, reads in found:
            kept = box.get(query)
            if not isinstance(kept, Chosen) or kept.choice is not choice:
                continue
            key = classes.key(op.require(index), axis)
            if axis not in reads[index].box and key == classes.key(op.output, query):
                return op
    return None


def _summed(op: Op) -> tuple[int, tuple[int, int]] | None:
    """The result's axis of queries, and where keys are summed over: an operand and its axis."""
    rank = op.output.rank
    if isinstance(op, Attention):
        return 2, (1, 2)
    if isinstance(op, MatMul) and rank is not None:
        return rank - 2, (1, (op.require(1).rank or 0) - 2)
    return None
