"""Attention layers: found however spelled, each op in the right one, and the bytes of a cache."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from passel.graph import Graph, Value
from passel.graph.cost import graph_cost
from passel.graph.cost_layers import attention_layers
from passel.graph.ops import Attention, Elementwise, Linear, Norm, Put, Take
from passel.models import GPT, GPTConfig, ViT, ViTConfig, gpt_inputs, vit_inputs
from passel.passes import resolve
from passel.passes.driver import run_passes

DIM, HEADS, DEPTH, TOKENS = 24, 4, 3, 17
SMALL = {"image_size": 32, "patch_size": 8, "dim": DIM, "depth": DEPTH, "heads": HEADS}
BOTH = pytest.mark.parametrize("opset", [20, 23])


def block_flops(tokens, dim, heads, gelu=5, masked=0):
    """A pre-norm block with bias and LayerNorms, exactly."""
    linears = 2 * tokens * 12 * dim * dim + tokens * (3 * dim + dim + 4 * dim + dim)
    scores = heads * tokens * tokens
    attention = 2 * scores * 2 * (dim // heads) + (6 + masked) * scores
    return linears + attention + tokens * dim * (2 * 7 + 2 + 4 * gelu)


def vit(view, opset=23, **settings):
    config = ViTConfig(**SMALL, classes=10, **settings)
    return view.lift(ViT(config), vit_inputs(config), opset=opset)[0]


def flops(layers):
    return [layer.flops for layer in layers]


def test_every_block_of_a_vit_has_its_flops(view):
    layers = attention_layers(vit(view))
    assert flops(layers) == [block_flops(TOKENS, DIM, HEADS)] * DEPTH
    for layer in layers:
        assert (layer.queries, layer.keys, layer.heads, layer.kv_heads) == (17, 17, 4, 4)
        assert layer.kv_bytes == 2 * TOKENS * DIM * 4
        assert layer.label == layer.scope


@pytest.mark.parametrize("settings", [{"norm_position": "post"}, {"fused_qkv": False}], ids=str)
@BOTH
def test_blocks_are_equal_however_they_are_built(view, settings, opset):
    layers = attention_layers(vit(view, opset, **settings))
    assert len(layers) == DEPTH
    assert len(set(flops(layers))) == 1
    assert layers[0].flops == pytest.approx(block_flops(TOKENS, DIM, HEADS), rel=0.01)


@BOTH
def test_blocks_of_a_gpt_and_what_is_in_none(view, opset):
    config = GPTConfig(vocab=97, context=32, dim=DIM, depth=DEPTH, heads=HEADS)
    graph, _ = view.lift(GPT(config), gpt_inputs(config, tokens=TOKENS), opset=opset)
    cost = graph_cost(graph)
    layers = attention_layers(graph, cost)
    expected = block_flops(TOKENS, DIM, HEADS, gelu=8, masked=1)
    assert flops(layers) == [pytest.approx(expected, rel=0.01)] * DEPTH
    head = 2 * TOKENS * DIM * 97 + 7 * TOKENS * DIM
    assert cost.total.flops - sum(flops(layers)) == pytest.approx(head, rel=0.01)


@BOTH
def test_passes_keep_layers(view, opset):
    graph = vit(view, opset, pool="mean")
    before = attention_layers(graph)
    run_passes(graph, resolve(["default", "merge-linears", "flatten-tokens"]))
    after = attention_layers(graph)
    assert [layer.kv_bytes for layer in before] == [layer.kv_bytes for layer in after]
    assert len(set(flops(after))) == 1
    assert flops(after)[0] < flops(before)[0] < 1.02 * flops(after)[0]


@BOTH
def test_symbolic_tokens(view, opset):
    config = GPTConfig(vocab=97, context=32, dim=DIM, depth=2, heads=HEADS)
    dynamic = {"ids": {0: "batch", 1: "tokens"}}
    inputs = gpt_inputs(config, batch=2)
    graph, _ = view.lift(GPT(config), inputs, dynamic_shapes=dynamic, opset=opset)
    symbols = graph_cost(graph).symbols
    assert len(symbols) == 2
    (layer, _) = attention_layers(graph)
    assert layer.queries == layer.keys
    assert layer.queries in symbols
    assert (layer.heads, layer.kv_heads, layer.kv_bytes) == (HEADS, HEADS, 2 * DIM * 4)
    sizes = {name: 17 if name == layer.keys else 3 for name in symbols}
    layer = attention_layers(graph, graph_cost(graph, sizes))[0]
    assert (layer.queries, layer.keys, layer.kv_bytes) == (17, 17, 3 * 2 * 17 * DIM * 4)


class Grouped(nn.Module):
    """Two query heads for each key head, repeated by hand as in LLaMA."""

    def __init__(self, spelled=False):
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)
        self.spelled = spelled

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, 4, 6).transpose(1, 2)
        k, v = (self._repeat(part) for part in self.kv(x).split(12, -1))
        if self.spelled:
            y = torch.softmax(q @ k.transpose(-1, -2) / 6**0.5, -1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return x + self.o(y.transpose(1, 2).reshape(b, t, 24))

    def _repeat(self, x):
        b, t, _ = x.shape
        x = x.view(b, t, 2, 6).transpose(1, 2)
        return x[:, :, None].expand(b, 2, 2, t, 6).reshape(b, 4, t, 6)


@pytest.mark.parametrize("spelled", [False, True])
def test_a_cache_holds_grouped_heads_once(view, spelled):
    graph, _ = view.lift(Grouped(spelled), [torch.zeros(3, 5, 24)], opset=23)
    (layer,) = attention_layers(graph)
    assert (layer.heads, layer.kv_heads) == (4, 2)
    assert layer.kv_bytes == 3 * 5 * 24 * 4


class Net:
    """A builder of transformers, in plain graph ops."""

    def __init__(self, tokens=8):
        self.graph = Graph(binding=None)
        self.shape = (1, tokens, 4)
        self.x = Value("x", self.shape, np.dtype(np.float32))
        self.graph.inputs.append(self.x)

    def op(self, kind, *operands, shape=None, **attributes):
        result = (shape or operands[0].shape, operands[0].dtype)
        return self.graph.add(kind(inputs=list(operands), **attributes), result).output

    def linear(self, x, width=4):
        weight = self.graph.constant(np.zeros((width, x.shape[-1]), np.float32))
        return self.op(Linear, x, weight, shape=(*x.shape[:-1], width))

    def attention(self, x, memory=None):
        k = v = self.linear(x if memory is None else memory)
        return self.linear(self.op(Attention, self.linear(x), k, v))

    def mlp(self, x):
        return self.linear(self.op(Elementwise, self.linear(x, 16), fn="relu"))

    def add(self, x, y):
        return self.op(Elementwise, x, y, fn="add")

    def block(self, x, memory=None):
        x = self.add(x, self.attention(self.op(Norm, x)))
        if memory is not None:
            x = self.add(x, self.attention(self.op(Norm, x), memory))
        return self.add(x, self.mlp(self.op(Norm, x)))

    def layers(self, *results):
        self.graph.outputs = list(results)
        return attention_layers(self.graph)


def test_a_parallel_mlp_is_in_its_own_block():
    net = Net()
    x = net.x
    for _ in range(3):
        branches = net.add(net.attention(net.op(Norm, x)), net.mlp(net.op(Norm, x)))
        x = net.add(x, branches)
    found = flops(net.layers(net.linear(net.op(Norm, x))))
    assert len(set(found)) == 1


def test_towers_do_not_mix():
    net = Net()
    left = right = net.linear(net.x)
    for _ in range(2):
        left, right = net.block(left), net.block(right)
    left, right = net.linear(net.op(Norm, left)), net.linear(net.op(Norm, right))
    found = flops(net.layers(net.op(Elementwise, left, right, fn="mul")))
    assert len(found) == 4
    assert len(set(found)) == 1


def test_a_decoder_with_an_encoder():
    net = Net()
    memory, x = net.linear(net.x), net.linear(net.x)
    for _ in range(2):
        memory = net.block(memory)
    memory = net.op(Norm, memory)
    for _ in range(2):
        x = net.block(x, memory)
    encoder, last, *decoder = flops(net.layers(net.linear(net.op(Norm, x))))
    assert last == encoder + 5 * 32  # and the encoder's final norm
    assert decoder[:2] == decoder[2:]


def test_attention_as_pooling_does_not_take_the_last_block():
    net = Net()
    x = net.block(net.block(net.x))
    x = net.op(Norm, x)
    query = net.graph.constant(np.zeros((1, 1, 4), np.float32))
    keys = net.linear(x)
    pooled = net.op(Attention, query, keys, keys)
    first, second, pool = net.layers(net.mlp(pooled))
    assert first.flops == second.flops
    assert (pool.queries, pool.keys) == (1, 8)


def test_layers_that_keep_some_tokens_count_those():
    """Mixture-of-Depths: every other block on an eighth of the tokens."""
    net = Net(tokens=16)
    index = Value("index", (1, 2), np.dtype(np.int64))
    net.graph.inputs.append(index)
    x = net.x
    for _ in range(3):
        x = net.block(x)
        kept = net.op(Take, x, index, shape=(1, 2, 4))
        x = net.op(Put, x, index, net.block(kept))
    layers = net.layers(net.linear(net.op(Norm, x)))
    assert [layer.keys for layer in layers] == [16, 2] * 3
    assert [layer.kv_bytes for layer in layers] == [2 * 16 * 16, 2 * 2 * 16] * 3
    dense, routed = flops(layers)[:2]
    assert flops(layers) == [dense, routed] * 3
    assert routed < dense / 8


def test_a_graph_without_attention_has_no_layers(view):
    graph, _ = view.lift(nn.Linear(8, 6), [torch.zeros(3, 8)])
    assert attention_layers(graph) == []


def test_a_softmax_over_templates_is_no_attention(view):
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.bank = nn.Linear(8, 4), nn.Parameter(torch.zeros(4, 8))

        def forward(self, x):
            return torch.softmax(self.gate(x), -1) @ self.bank

    graph, _ = view.lift(Mixture(), [torch.zeros(2, 3, 8)])
    assert attention_layers(graph) == []


def test_work_is_linear_in_the_blocks():
    from tests.passes.test_cost import calls_of

    counts = []
    for depth in (6, 60):
        net = Net()
        x = net.x
        for _ in range(depth):
            x = net.block(x)
        counts.append(calls_of(net.layers, net.linear(net.op(Norm, x))))
    assert counts[1] < 11 * counts[0]


def test_dead_ops_do_not_move_others():
    net = Net()
    x = net.block(net.x)
    normed = net.op(Norm, x)
    net.op(Elementwise, normed, fn="exp")
    x = net.add(x, net.attention(normed))
    first, second = net.layers(net.add(x, net.mlp(net.op(Norm, x))))
    assert first.flops == second.flops
