"""Steps of the decoder give what the causal decoder gives for the whole sequence."""

import numpy as np
import pytest
import torch
from torch import Tensor

from passel.models.llama import LlamaBlock, rope_tables
from passel.models.llama_decode import (
    LLAMA_150M,
    LLAMA_DECODE_TINY,
    LlamaDecode,
    LlamaDecodeConfig,
    dynamic_shapes,
    example_inputs,
    names,
)

CONFIG = LLAMA_DECODE_TINY


@pytest.fixture
def model() -> LlamaDecode:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaDecode(CONFIG).eval()


def whole(model: LlamaDecode, tokens: Tensor) -> Tensor:
    """Logits (batch, tokens, vocab) by full causal attention; shared keys and values repeated."""
    config = model.config
    x = model.token_embedding(tokens)
    cos, sin = rope_tables(tokens.shape[1], config.width, x)
    for block in model.blocks:
        state = block.state_dict()
        for name in ("attention.key.weight", "attention.value.weight"):
            parts = state[name].reshape(config.kv_heads, config.width, config.dim)
            repeated = parts.repeat_interleave(config.heads // config.kv_heads, dim=0)
            state[name] = repeated.reshape(config.dim, config.dim)
        full = LlamaBlock(config.dim, config.heads, config.hidden).to(x.dtype)
        full.load_state_dict(state)
        x = full(x, cos, sin)
    return model.head(model.norm(x))


def test_steps_equal_the_whole_sequence(model: LlamaDecode) -> None:
    model = model.double()
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    past = [torch.zeros(2, CONFIG.kv_heads, 0, CONFIG.width).double() for _ in range(4)]
    steps = []
    with torch.no_grad():
        for place in range(tokens.shape[1]):
            position = torch.full((2, 1), place)
            logits, past = model(tokens[:, place : place + 1], position, past)
            steps.append(logits)
        expected = whole(model, tokens)
    assert all(kept.shape == (2, CONFIG.kv_heads, 6, CONFIG.width) for kept in past)
    assert torch.cat(steps, dim=1).shape == expected.shape
    assert (torch.cat(steps, dim=1) - expected).abs().max() < 1e-12


def test_the_benchmark_model_has_150_million_parameters() -> None:
    with torch.device("meta"):
        model = LlamaDecode(LLAMA_150M)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(150e6, rel=0.01)


def test_exports_with_a_dynamic_past(model: LlamaDecode) -> None:
    arguments = example_inputs(CONFIG, past=5)
    program = torch.export.export(model, arguments, dynamic_shapes=dynamic_shapes(CONFIG))
    longer = example_inputs(CONFIG, past=9, seed=1)
    expected, found = model(*longer), program.module()(*longer)
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert found[1][-1].shape[2] == 10


@pytest.mark.slow
def test_onnx_runs_in_onnxruntime(model: LlamaDecode) -> None:
    import onnxruntime as ort

    inputs, outputs = names(CONFIG)
    program = torch.onnx.export(
        model,
        example_inputs(CONFIG, past=5),
        dynamo=True,
        verbose=False,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic_shapes(CONFIG),
    )
    assert program is not None
    session = ort.InferenceSession(program.model_proto.SerializeToString())
    assert [value.name for value in session.get_inputs()] == inputs
    for past in (1, 9):
        token, position, kept = example_inputs(CONFIG, past=past, seed=past)
        arrays = [tensor.numpy() for tensor in (token, position, *kept)]
        found = session.run(outputs, dict(zip(inputs, arrays, strict=True)))
        with torch.no_grad():
            logits, present = model(token, position, kept)
        for array, tensor in zip(found, (logits, *present), strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), atol=1e-5)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 2 \* heads to divide dim 30, got heads 4"):
        LlamaDecodeConfig(dim=30, heads=4, kv_heads=4)
    with pytest.raises(ValueError, match="expected kv_heads to divide heads 12, got 5"):
        LlamaDecodeConfig(kv_heads=5)
