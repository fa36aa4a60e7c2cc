"""Lift and lower what torch.onnx writes for real architectures: the numbers do not move."""

import copy
import functools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from passel.graph import ops as o
from passel.graph.onnx import lift
from passel.graph.onnx_io import raise_opset

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {"vocab_size": 50, "use_cache": False, **SMALL}


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


class Positional(nn.Module):
    """A transformers model that takes and gives tensors only."""

    def __init__(self, model, *names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=False)[0]


def hf(kind, names=("input_ids",), **config):
    model = getattr(transformers, f"{kind}Model")
    return Positional(model(getattr(transformers, f"{kind}Config")(**config)), *names)


def tokens():
    return torch.randint(3, 50, (2, 7))


BUILDERS = {
    "conv": (convnet, lambda: (torch.randn(2, 3, 12, 12),)),
    "vit": (
        lambda: hf("ViT", ("pixel_values",), image_size=16, patch_size=8, **SMALL),
        lambda: (torch.randn(2, 3, 16, 16),),
    ),
    "gpt2": (
        lambda: hf("GPT2", vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4),
        lambda: (tokens(),),
    ),
    "opt": (
        lambda: hf("OPT", ffn_dim=64, max_position_embeddings=16, word_embed_proj_dim=32, **TEXT),
        lambda: (tokens(),),
    ),
    "llama": (
        lambda: hf("Llama", num_key_value_heads=2, intermediate_size=64, **TEXT),
        lambda: (tokens(),),
    ),
    "bert": (
        lambda: hf("Bert", ("input_ids", "attention_mask"), intermediate_size=64, **TEXT),
        lambda: (tokens(), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])),
    ),
    "whisper": (
        lambda: hf(
            "Whisper",
            ("input_features", "decoder_input_ids"),
            vocab_size=50,
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_source_positions=8,
            num_mel_bins=8,
            pad_token_id=0,
            use_cache=False,
        ),
        lambda: (torch.randn(2, 8, 16), tokens()),
    ),
}
CASES = [
    *((name, 18) for name in BUILDERS),
    ("vit", 20),
    *((name, 23) for name in ("vit", "gpt2", "llama", "bert", "whisper")),
]


@functools.cache
def built(name):
    torch.manual_seed(0)
    model, inputs = BUILDERS[name]
    return model().eval(), inputs()


@functools.cache
def exported(name, opset):
    model, inputs = built(name)
    with torch.no_grad():
        program = torch.onnx.export(
            model, inputs, dynamo=True, opset_version=opset, verbose=False, optimize=True
        )
    return program.model_proto.SerializeToString()


def model_of(name, opset):
    return ir.from_proto(onnx.load_model_from_string(exported(name, opset)))


def session_run(model, arrays):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def arrays_for(name):
    return [tensor.numpy() for tensor in built(name)[1]]


def unsourced(graph):
    """Have every op written anew, as if a pass had edited all of them."""
    for op in graph.ops:
        if not isinstance(op, o.Opaque):
            op.source = None
    return graph


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_round_trip_is_bitwise(name, opset):
    model = model_of(name, opset)
    before = ir.to_proto(model).SerializeToString()
    graph = lift(model)
    lowered = graph.binding.lower(graph)
    assert ir.to_proto(model).SerializeToString() == before
    want, got = (session_run(m, arrays_for(name)) for m in (model, lowered))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("name", "opset"), CASES)
def test_written_anew_it_computes_the_same(name, opset):
    model = model_of(name, opset)
    graph = unsourced(lift(model))
    want, got = (session_run(m, arrays_for(name)) for m in (model, graph.binding.lower(graph)))
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(a).max())


@pytest.mark.parametrize("name", ["conv", "vit", "gpt2", "llama", "bert", "whisper"])
def test_nearly_every_node_has_a_word(name):
    graph = lift(model_of(name, 18))
    opaque = {op.kind for op in graph.walk(o.Opaque)}
    assert opaque <= {"GatherElements", "GatherND", "AveragePool", "GlobalAveragePool"}


@pytest.mark.parametrize(("name", "opset"), [("conv", 18), ("vit", 23), ("whisper", 18)])
def test_the_reference_agrees_with_torch_in_double(name, opset):
    model, inputs = built(name)
    double = copy.deepcopy(model).double()
    inputs = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    with torch.no_grad():
        program = torch.onnx.export(double, inputs, dynamo=True, opset_version=opset, verbose=False)
        want = double(*inputs).numpy()
    graph = lift(program.model)
    arrays = [tensor.numpy() for tensor in inputs]
    copied = graph.run(arrays)[0]
    anew = unsourced(graph).run(arrays)[0]
    assert copied.dtype == anew.dtype == np.float64
    # ONNX keeps ε and the factor on attention scores in float32, so torch's are a little different.
    np.testing.assert_allclose(copied, want, rtol=0, atol=2e-8 * np.abs(want).max())
    np.testing.assert_allclose(anew, copied, rtol=0, atol=1e-12 * np.abs(want).max())


@pytest.mark.parametrize("name", ["conv", "vit", "gpt2", "llama", "bert", "whisper"])
@pytest.mark.parametrize("target", [20, 23, 25])
def test_a_raised_opset_computes_the_same(name, target):
    model = model_of(name, 18)
    raised, reason = raise_opset(model, target)
    assert reason == ""
    want, got = (session_run(m, arrays_for(name)) for m in (model, raised))
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=1e-6 * np.abs(want[0]).max())
    graph = unsourced(lift(raised))
    again = session_run(graph.binding.lower(graph), arrays_for(name))
    np.testing.assert_allclose(again[0], want[0], rtol=0, atol=1e-6 * np.abs(want[0]).max())


def test_a_dynamic_batch_stays_dynamic():
    model, inputs = built("vit")
    shapes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    with torch.no_grad():
        program = torch.onnx.export(
            model, inputs, dynamo=True, opset_version=18, dynamic_shapes=(shapes,), verbose=False
        )
    graph = unsourced(lift(program.model))
    assert graph.inputs[0].shape == ("batch", 3, 16, 16)
    lowered = graph.binding.lower(graph)
    assert str(lowered.graph.inputs[0].shape[0]) == "batch"
    x = np.random.default_rng(0).standard_normal((5, 3, 16, 16)).astype(np.float32)
    got = session_run(lowered, [x])[0]
    with torch.no_grad():
        want = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_scopes_are_module_paths():
    graph = lift(model_of("vit", 18))
    scopes = {op.scope for op in graph.walk(o.Norm)}
    assert "model.layers.0.layernorm_before" in scopes
    lowered = graph.binding.lower(unsourced(graph))
    assert {op.scope for op in lift(lowered).walk(o.Norm)} == scopes
