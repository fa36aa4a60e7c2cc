"""Why the tokens that a top-k drops have to be computed all the same."""

from ...graph import Op
from ...graph.ops import Attention, Conv, Linear, MatMul, TopK
from ..axis_roles import AxisClasses
from ..base import Refusal
from .plan import Plan
from .selection import Choice, Chosen

PRODUCTS = (Linear, MatMul, Attention, Conv)


def of_choice(top: TopK, choice: Choice | None, plan: Plan, classes: AxisClasses) -> Refusal | None:
    """Why the plan for a choice is not to be carried out, if there is a reason."""
    if choice is None:
        return Refusal("no mask is made of the positions that it chooses", top.name)
    if isinstance(choice.extent, int) and choice.count == choice.extent:
        return Refusal("every token is kept", top.name, f"{choice.count} of {choice.extent}")
    reader = _reads_own_block(top, plan)
    if reader is not None:
        return Refusal("the router reads the block's own output", reader.name)
    keys = _unmasked_keys(choice, plan, classes)
    if keys is not None:
        return Refusal("dropped tokens are read as keys", keys.name, keys.kind)
    if not any(isinstance(op, PRODUCTS) for op in plan.spared):
        return Refusal("no product is computed for kept tokens alone", top.name)
    return None


def _reads_own_block(top: TopK, plan: Plan) -> Op | None:
    """An op whose whole result the top-k's scores depend on, though only kept rows should be."""
    spared = set(plan.spared) | {op for op, _ in plan.blocked}
    early = [op for op in spared if plan.order[op] < plan.order[top]]
    if not early:
        return None
    first = min(plan.order[op] for op in early)
    seen: set[Op] = set()
    worklist: list[Op] = [top]
    while worklist:
        op = worklist.pop()
        for value in op.inputs:
            source = None if value is None else value.producer
            if source is None or source in seen or plan.order.get(source, -1) < first:
                continue
            if source in plan.spared:
                return source
            seen.add(source)
            worklist.append(source)
    return None


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
