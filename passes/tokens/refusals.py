"""Why the tokens that a top-k drops have to be computed all the same."""

from ...graph import Op
from ...graph.ops import Attention, Conv, Linear, MatMul, TopK
from ..base import Refusal
from .plan import Plan
from .selection import Box, Choice, Chosen

PRODUCTS = (Linear, MatMul, Attention, Conv)


def of_choice(top: TopK, choice: Choice | None, plan: Plan) -> Refusal | None:
    """Why the plan for a choice is not to be carried out, if there is a reason."""
    if choice is None:
        return Refusal("no mask is made of the positions that it chooses", top.name)
    if isinstance(choice.extent, int) and choice.count == choice.extent:
        return Refusal("every token is kept", top.name, f"{choice.count} of {choice.extent}")
    reader = _reads_own_block(top, plan)
    if reader is not None:
        return Refusal("the router reads the block's own output", reader.name)
    keys = _unmasked_keys(choice, plan)
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


def _unmasked_keys(choice: Choice, plan: Plan) -> Op | None:
    """An attention whose kept queries see keys that the choice drops."""
    for (op, result), found in plan.reads.items():
        for box, reads in found:
            if isinstance(op, Attention) and _is_kept(box.get(2), choice):
                if 2 not in reads[1].box and op.require(1).shape[2] == choice.extent:  # type: ignore[index]
                    return op
            if isinstance(op, MatMul) and _sums_over_all(op, box, choice, reads[1].box):
                return op
    return None


def _is_kept(selection: object, choice: Choice) -> bool:
    return isinstance(selection, Chosen) and selection.choice is choice


def _sums_over_all(op: MatMul, box: Box, choice: Choice, right: Box) -> bool:
    """Probabilities of kept queries times values of all tokens."""
    a, b, rank = op.require(0), op.require(1), op.output.rank or 0
    if not _is_kept(box.get(rank - 2), choice) or a.shape is None or b.rank is None:
        return False
    return a.shape[-1] == choice.extent and (b.rank - 2) not in right
