"""push-tokens on the architectures that read one token, or few, of what they compute.

The last block's feed-forward has to see those alone. Blocks before it need all tokens: their keys.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from transformers import SiglipVisionConfig

from passel.capture import export_program, to_onnx
from passel.graph import Graph, fx, onnx
from passel.graph.ops import Linear
from passel.passes.tokens.selection import Positions
from tests.architectures import (
    ARCHITECTURES,
    GELU,
    IMAGE,
    ROTARY,
    SMALL,
    TEXT,
    TOKENS,
    Built,
    Inputs,
    hugging,
    ids,
    masked,
    text,
    vision,
)
from tests.residual import VIEWS, apply, double, error, outputs

BATCH = 2


class Selected(nn.Module):
    """A model of which some tokens are read."""

    def __init__(self, model: nn.Module, select: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.select = model, select

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.select(self.model(*inputs))


def first(x: Tensor) -> Tensor:
    return x[:, 0]


def last(x: Tensor) -> Tensor:
    return x[:, -1]


def selected(build: Callable[[], Built], select: Callable[[Tensor], Tensor]) -> Callable[[], Built]:
    def built() -> Built:
        model, inputs = build()
        return Selected(model, select).eval(), inputs

    return built


def known(name: str, select: Callable[[Tensor], Tensor] | None = None) -> Callable[[], Built]:
    """One of ARCHITECTURES, whole or with some tokens read."""
    build = ARCHITECTURES[name].build
    return build if select is None else selected(build, select)


def encoder_decoder(kind: str, **settings: object) -> Callable[[], Built]:
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(2, 5)}
    return selected(lambda: hugging(kind, inputs, "logits", **settings, **TEXT), last)


@dataclass(frozen=True)
class Reading:
    """An architecture, and what is read of it.

    Attributes:
        hidden: output width of the feed-forward's first Linear.
        read: tokens that the last block's feed-forward has to compute.
        blocks: how many there are; all but the last have to see more tokens.
        single: what is computed in float32 in any case.
        slow: not among the tests that run by default.
    """

    build: Callable[[], Built]
    hidden: int = 32
    read: int = 1
    blocks: int = 2
    single: str = ""
    slow: bool = True


QWEN = {
    "intermediate_size": 32,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "head_dim": 12,
    **TEXT,
    **SMALL,
}
BERT = {"intermediate_size": 32, "max_position_embeddings": 16, **TOKENS, **SMALL}
T5 = {"d_model": 24, "d_kv": 12, "d_ff": 32, "num_layers": 2, "num_heads": 2}
NORMS = "norms and rotary tables"

READINGS = {
    "vit": Reading(known("vit"), slow=False),
    "deit": Reading(known("deit"), read=2, slow=False),
    "deit-class-token": Reading(
        vision("DeiTForImageClassification", config="DeiT", intermediate_size=32, **SMALL)
    ),
    "clip-vision": Reading(known("clip-vision")),
    "dinov2": Reading(
        selected(vision("Dinov2Model", "last_hidden_state", mlp_ratio=2, **SMALL), first),
        hidden=48,
    ),
    "beit": Reading(
        vision(
            "BeitForImageClassification",
            intermediate_size=32,
            use_relative_position_bias=True,
            use_mean_pooling=False,
            **SMALL,
        )
    ),
    "siglip-text": Reading(known("siglip-text"), slow=False),
    "gpt2": Reading(known("gpt2", last), hidden=96, single=GELU, slow=False),
    "opt": Reading(known("opt", last)),
    "opt-post-norm": Reading(known("opt-350m", last)),
    "gpt-j": Reading(known("gpt-j", last), hidden=96, single="queries and keys"),
    "gpt-neox": Reading(known("gpt-neox", last), single=ROTARY),
    "gpt-neox-sequential": Reading(known("gpt-neox-sequential", last), single=ROTARY),
    "bloom": Reading(known("bloom", last), hidden=96),
    "phi": Reading(known("phi", last), single=ROTARY),
    "llama": Reading(known("llama", last), single=NORMS, slow=False),
    "qwen2": Reading(selected(text("Qwen2ForCausalLM", **QWEN), last), single=NORMS),
    "qwen3": Reading(selected(text("Qwen3ForCausalLM", **QWEN), last), single=NORMS),
    "mpt": Reading(known("mpt", last), hidden=96),
    "falcon": Reading(known("falcon", last), hidden=96, single=ROTARY),
    "whisper": Reading(known("whisper", last), blocks=4),
    "mbart": Reading(known("mbart", last), blocks=4),
    "t5": Reading(
        encoder_decoder("T5ForConditionalGeneration", config="T5", **T5), blocks=4, single=NORMS
    ),
    "bert": Reading(known("bert", first), slow=False),
    "roberta": Reading(
        selected(masked("RobertaModel", **{**BERT, "max_position_embeddings": 20}), first)
    ),
    "passel-vit": Reading(known("passel-vit"), hidden=96),
    "passel-gpt": Reading(known("passel-gpt-tied", last), hidden=96),
}
CASES = [
    pytest.param(name, view, marks=pytest.mark.slow if one.slow else [])
    for name, one in READINGS.items()
    for view in VIEWS
]


@functools.lru_cache(maxsize=1)
def captured(name: str) -> tuple[ExportedProgram, Inputs]:
    """The program, which both views of a case start from, and its inputs."""
    torch.manual_seed(0)
    model, inputs = double(*READINGS[name].build())
    return export_program(model, (inputs, {}), None, name), inputs


def lifted(name: str, view: str) -> tuple[Graph, Inputs]:
    program, inputs = captured(name)
    return (fx.lift(program) if view == "fx" else onnx.lift(to_onnx(program, 20))), inputs


def tokens_of(graph: Graph, hidden: int) -> list[int]:
    """Tokens a batch element that each feed-forward's first Linear sees."""
    linears = [op for op in graph.walk(Linear) if op.output.shape[-1] == hidden]
    rows = [op.output.shape[:-1] for op in linears]
    assert all(isinstance(n, int) for shape in rows for n in shape)
    return [int(torch.tensor(shape).prod()) // BATCH for shape in rows]


@pytest.mark.parametrize(("name", "view"), CASES)
def test_the_last_block_computes_what_is_read(name: str, view: str) -> None:
    one = READINGS[name]
    graph, inputs = lifted(name, view)
    before = outputs(graph, inputs)
    reports = apply(graph, "default")
    (report,) = [report for report in reports if report.name == "push-tokens"]
    assert report.applied
    found = tokens_of(graph, one.hidden)
    last_block = len(found) // (one.blocks)  # one Linear, or gate and up
    assert set(found[-last_block:]) == {one.read}
    assert all(n > one.read for n in found[:-last_block])
    assert error(outputs(graph, inputs), before) <= (1e-6 if one.single else 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_what_reads_every_token_is_left_alone(view: str) -> None:
    """SigLIP's classifier reads the mean over the patches."""
    torch.manual_seed(0)
    settings = SiglipVisionConfig(intermediate_size=32, **IMAGE, **SMALL)
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16)}
    model, values = hugging(
        "SiglipForImageClassification", inputs, "logits", vision_config=settings.to_dict()
    )
    model, values = double(model, values)
    program = export_program(model, (values, {}), None, "siglip")
    graph = fx.lift(program) if view == "fx" else onnx.lift(to_onnx(program, 20))
    before = outputs(graph, values)
    reports = apply(graph, "default")
    (report,) = [report for report in reports if report.name == "push-tokens"]
    assert not report.applied
    assert set(tokens_of(graph, 32)) == {4}
    assert error(outputs(graph, values), before) <= 1e-9


def test_a_broken_rewrite_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is tight enough to see the neighbour of the token that was to be read."""
    places = Positions.places
    monkeypatch.setattr(
        Positions, "places", lambda s, part: [max(p - 1, 0) for p in places(s, part)]
    )
    graph, inputs = lifted("deit", "fx")
    before = outputs(graph, inputs)
    apply(graph, "default")
    assert error(outputs(graph, inputs), before) > 1e-3
