"""The torch view on whole models: lifting and lowering change no bit, whatever is rewritten."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from passel.graph.fx import lift
from passel.graph.graph import Graph
from passel.graph.ops import Opaque, Slice

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TOKENS = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
IDS = torch.arange(3, 19).reshape(2, 8)


def vit() -> tuple[Any, dict[str, Any]]:
    config = transformers.ViTConfig(**SMALL, intermediate_size=64, image_size=32, patch_size=8)
    images = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    return transformers.ViTForImageClassification(config), {"pixel_values": images}


def gpt2() -> tuple[Any, dict[str, Any]]:
    config = transformers.GPT2Config(
        n_embd=32, n_layer=1, n_head=2, n_positions=16, use_cache=False, **TOKENS
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": IDS}


def opt() -> tuple[Any, dict[str, Any]]:
    config = transformers.OPTConfig(
        **SMALL,
        **TOKENS,
        ffn_dim=64,
        max_position_embeddings=16,
        word_embed_proj_dim=32,
        use_cache=False,
    )
    return transformers.OPTForCausalLM(config), {"input_ids": IDS}


def llama() -> tuple[Any, dict[str, Any]]:
    config = transformers.LlamaConfig(
        **SMALL, **TOKENS, num_key_value_heads=1, intermediate_size=64, use_cache=False
    )
    return transformers.LlamaForCausalLM(config), {"input_ids": IDS}


def whisper() -> tuple[Any, dict[str, Any]]:
    sizes = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
    sides = {f"{side}_{k}": n for side in ("encoder", "decoder") for k, n in sizes.items()}
    config = transformers.WhisperConfig(
        **sides,
        **TOKENS,
        d_model=32,
        max_source_positions=16,
        max_target_positions=16,
        num_mel_bins=8,
        use_cache=False,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    mel = torch.linspace(-1, 1, 2 * 8 * 32).reshape(2, 8, 32)
    model = transformers.WhisperForConditionalGeneration(config)
    return model, {"input_features": mel, "decoder_input_ids": IDS}


def bert() -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(
        **SMALL, **TOKENS, intermediate_size=64, max_position_embeddings=16
    )
    mask = torch.ones_like(IDS)
    mask[1, 5:] = 0
    return transformers.BertModel(config), {"input_ids": IDS, "attention_mask": mask}


class ConvNet(torch.nn.Module):
    """Convolutions, batch norm, a transposed convolution, and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.same = torch.nn.Conv2d(8, 8, 3, padding="same", groups=4)
        self.up = torch.nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.relu(self.norm(self.down(image)), inplace=True)
        return self.up(self.same(x)).mean(dim=(2, 3))


def convnet() -> tuple[Any, dict[str, Any]]:
    torch.nn.init.uniform_((model := ConvNet()).norm.running_var, 0.5, 2.0)
    return model, {"image": torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)}


CASES: list[tuple[Callable[[], tuple[Any, dict[str, Any]]], torch.dtype]] = [
    (vit, torch.float32),
    (gpt2, torch.float64),
    (opt, torch.float32),
    (llama, torch.float32),
    (whisper, torch.float64),
    (bert, torch.float32),
    (convnet, torch.float64),
]


@pytest.fixture(
    scope="module", params=CASES, ids=[f"{build.__name__}-{dtype}" for build, dtype in CASES]
)
def case(request: pytest.FixtureRequest) -> tuple[ExportedProgram, dict[str, Any]]:
    build, dtype = request.param
    torch.manual_seed(0)
    model, inputs = build()
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    return torch.export.export(model.to(dtype).eval(), (), inputs), inputs


def outputs(program: ExportedProgram, inputs: dict[str, Any]) -> list[torch.Tensor]:
    with torch.no_grad():
        return pytree.tree_leaves(program.module()(**inputs))


def forget_sources(graph: Graph) -> None:
    """Let every op be written anew, but those whose bounds only the program knows."""
    for op in graph.ops:
        if not isinstance(op, Opaque) and not (isinstance(op, Slice) and op.starts is None):
            op.source = None


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for mine, original in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine.numpy(), original.numpy())


def test_round_trip_is_bitwise(case: Any) -> None:
    program, inputs = case
    graph = lift(program)
    assert_same(outputs(graph.binding.lower(graph), inputs), outputs(program, inputs))


def test_written_anew_is_the_same(case: Any) -> None:
    program, inputs = case
    graph = lift(program)
    forget_sources(graph)
    lowered = graph.binding.lower(graph)
    assert_same(outputs(lowered, inputs), outputs(program, inputs))
    again = lift(lowered)
    kinds = [op.kind for op in graph.ops if op.kind != "Identity"]
    assert [op.kind for op in again.ops] == kinds


def test_decomposed_program(case: Any) -> None:
    # The lowered program, because GPT-2's own has a view that its decomposition refuses.
    program, inputs = case
    graph = lift(program)
    decomposed = graph.binding.lower(graph).run_decompositions()
    graph, expected = lift(decomposed), outputs(decomposed, inputs)
    assert_same(outputs(graph.binding.lower(graph), inputs), expected)
    forget_sources(graph)
    for mine, original in zip(outputs(graph.binding.lower(graph), inputs), expected, strict=True):
        # Copies to contiguous memory are gone, so a matrix product may sum in another order.
        bound = 64 * torch.finfo(original.dtype).eps * original.abs().max()
        assert (mine - original).abs().max() <= bound


MASKING = {"aten.arange.default", "aten.index.Tensor"}
CAUSAL = MASKING | {f"aten.{name}" for name in ("cumsum.default", "diff.default", "ne.Scalar")}
OPAQUE = {
    "vit": {"aten.arange.default"},
    "gpt2": CAUSAL,
    "opt": {"aten.arange.default", "aten.cumsum.default"},
    "llama": CAUSAL | {"wrap_with_set_grad_enabled"},
    "whisper": CAUSAL | {"aten.repeat.default"},
    "bert": MASKING | {"aten.gather.default"},
    "convnet": set(),
}


def test_what_stays_opaque(case: Any, request: pytest.FixtureRequest) -> None:
    program, _ = case
    name = request.node.callspec.id.split("-")[0]
    assert {op.kind for op in lift(program).ops if isinstance(op, Opaque)} == OPAQUE[name]


@pytest.mark.parametrize("rewrite", [False, True])
def test_dynamic_batch(rewrite: bool) -> None:
    model, inputs = gpt2()
    dynamic = {"input_ids": {0: torch.export.Dim("batch", min=2, max=8)}}
    program = torch.export.export(model.eval(), (), inputs, dynamic_shapes=dynamic)
    graph = lift(program)
    assert isinstance(graph.outputs[0].shape[0], str)  # type: ignore[index]
    if rewrite:
        forget_sources(graph)
    lowered, larger = graph.binding.lower(graph), {"input_ids": IDS.repeat(3, 1)}
    assert_same(outputs(lowered, larger), outputs(program, larger))
    assert lowered._guards_code == program._guards_code


def test_every_value_of_a_lifted_op_is_described(case: Any) -> None:
    program, _ = case
    for op in lift(program).ops:
        if not isinstance(op, Opaque):
            assert all(out.shape is not None and out.dtype is not None for out in op.outputs)
