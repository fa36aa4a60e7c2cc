"""The attention layers of a graph: tokens, heads, key and value bytes, and operations of each.

`cost_owners` says which ops belong to a layer, `cost_attention` what is an attention.
"""

from dataclasses import dataclass

from .cost import GraphCost, graph_cost
from .cost_attention import Found, find_attentions
from .cost_extents import Extents
from .cost_owners import NONE, layer_owners
from .graph import Graph
from .value import Dim


@dataclass(frozen=True)
class AttentionLayer:
    """One attention and the ops that belong to it.

    Attributes:
        name, scope: of the op that makes the attention's result.
        queries, keys: numbers of tokens; a name where it is symbolic and no size was given.
        heads, kv_heads: numbers of query and of key heads.
        kv_bytes: keys and values, as a cache would hold them: not yet repeated for grouped heads.
        flops: of the whole layer.
    """

    name: str
    scope: str
    queries: Dim
    keys: Dim
    heads: int
    kv_heads: int
    kv_bytes: int
    flops: int

    @property
    def label(self) -> str:
        """The module that it came from, or its own name."""
        return self.scope or self.name


def attention_layers(graph: Graph, cost: GraphCost | None = None) -> list[AttentionLayer]:
    """Every attention in topological order, with the cost of its layer; linear in the ops.

    `cost` is what `graph_cost` says of the graph: with sizes, or if it was asked already.
    """
    found = find_attentions(graph)
    if not found:
        return []
    cost = cost or graph_cost(graph)
    flops = [0] * len(found)
    for op, owner in layer_owners(graph, found).items():
        if owner != NONE:
            flops[owner] += cost.ops[op].flops
    return [_layer(one, total, cost.extents) for one, total in zip(found, flops, strict=True)]


def _layer(found: Found, flops: int, extents: Extents) -> AttentionLayer:
    queries, keys = (d if d in extents.free else extents(d) for d in (found.queries, found.keys))
    heads, kv_heads = found.heads(extents), found.kv_heads(extents)
    op, cached = found.op, found.kv_bytes(extents)
    return AttentionLayer(op.name, op.scope, queries, keys, heads, kv_heads, cached, flops)
