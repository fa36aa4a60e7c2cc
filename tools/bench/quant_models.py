"""The models of the quantization benchmark, with the inputs to calibrate on and to be judged by.

Inputs are made one by one from an index, so that none are held: a cache of keys and values is 38 MB
each. The same index gives the same input in every process; calibration and judgement share none.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from .models import LastPosition, load
from .quant_decode import PAST, Decode, LlamaStep, cached

Inputs = tuple[torch.Tensor, ...]
JUDGED_FROM = 1_000_000
"""Index of the first held-out input."""
TOKENS = 128


@dataclass(frozen=True)
class Case:
    """One model under test.

    Attributes:
        module: the float model, in eval mode.
        sample: index to inputs.
        calibration: how many inputs calibrate, from index 0 on.
        judged: how many held-out inputs the error is measured on.
        trained: whether the weights are trained, or random.
        tokens: tokens that a call makes, where tokens per second mean something; else 0.
    """

    name: str
    module: torch.nn.Module
    sample: Callable[[int], Inputs]
    calibration: int = 64
    judged: int = 16
    trained: bool = False
    tokens: int = 0

    def calibration_inputs(self, count: int | None = None) -> Iterator[Inputs]:
        """The first inputs of the calibration set, all by default."""
        for index in range(self.calibration if count is None else min(count, self.calibration)):
            yield self.sample(index)

    def judged_inputs(self) -> Iterator[Inputs]:
        """The held-out inputs."""
        for index in range(self.judged):
            yield self.sample(JUDGED_FROM + index)


class Logits(torch.nn.Module):
    """A classifier of transformers, of whose outputs only the scores are wanted."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to scores (batch, classes)."""
        return self.model(images).logits


def vit_s() -> Case:
    """ViT-S/16 as transformers writes it, 1000 classes, random weights, one normal 224×224 image.

    Its own default of two classes would judge a model of 22 M weights by two numbers.
    """
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536
    )
    config.num_labels = 1000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Case("vit-s", Logits(ViTForImageClassification(config)).eval(), _image)


def _image(index: int) -> Inputs:
    return (torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(index)),)


def minilm() -> Case:
    """MiniLM (6 layers of 384), 128 tokens: the trained one where its package is installed.

    The texts are from Python's own manual. Without the package: random weights, random tokens.
    """
    from ...models import minilm as trained

    try:
        folder = trained.model_folder()
    except ImportError:
        return Case("minilm", _random_minilm(), partial(_sentence, _random_ids(30522)))
    return Case("minilm", trained.load(), partial(_sentence, _manual(folder)), trained=True)


def _random_minilm() -> torch.nn.Module:
    from transformers import BertConfig, BertModel

    from ...models.minilm import MiniLM

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MiniLM(BertModel(config, add_pooling_layer=False)).eval()


def _sentence(ids: Callable[[int], torch.Tensor], index: int) -> Inputs:
    tokens = ids(index)
    return tokens, torch.ones_like(tokens)


def _random_ids(vocabulary: int) -> Callable[[int], torch.Tensor]:
    def ids(index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(vocabulary, (1, TOKENS), generator=generator)

    return ids


def _manual(folder: Path) -> Callable[[int], torch.Tensor]:
    """Windows of Python's manual; those to be judged by are from topics that calibrate nothing."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    names = sorted(topics)
    parts = []
    for start in (0, 1):
        text = "\n".join(topics[name] for name in names[start::2])
        parts.append(tokenizer.encode(text, add_special_tokens=False).ids)
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")

    def ids(index: int) -> torch.Tensor:
        part, width = parts[index >= JUDGED_FROM], TOKENS - 2
        windows = len(part) // width
        # A stride with no common factor walks over all windows before it repeats one.
        start = (index % JUDGED_FROM * 37) % windows * width
        return torch.tensor([[first, *part[start : start + width], last]])

    return ids


def gpt2() -> torch.nn.Module:
    """A GPT-2-sized decoder with random weights."""
    return load("gpt2")[0]


def gpt2_prefill() -> Case:
    """A GPT-2-sized decoder, random weights, prefill of 128 tokens, of which the last is scored."""
    ids = _random_ids(50257)
    return Case("gpt2-prefill", LastPosition(gpt2(), "last").eval(), lambda index: (ids(index),))


def gpt2_decode() -> Case:
    """The same decoder, one token after 512 cached ones."""
    model = gpt2()
    sample = partial(cached, model)
    # Each input is 38 MB and a prefill, hence fewer of them.
    return Case("gpt2-decode", Decode(model).eval(), sample, calibration=16, judged=8, tokens=1)


def vit_digits() -> Case:
    """The digits ViT that passel ships, trained, on scans of the split it is tested on."""
    from ...models import load_digits_split, load_trained

    split = load_digits_split()
    scans = split.x_train, split.x_test

    def scan(index: int) -> Inputs:
        images = scans[index >= JUDGED_FROM]
        return (images[index % JUDGED_FROM, None].contiguous(),)

    return Case("vit-digits", load_trained("layer"), scan, trained=True)


def llama_decode() -> Case:
    """A Llama-shaped decoder of 150 M parameters, random weights, one token after 512 others."""
    from ...models.llama_decode import LLAMA_150M, LlamaDecode, example_inputs

    def sample(index: int) -> Inputs:
        token, position, past = example_inputs(LLAMA_150M, past=PAST, seed=index)
        return (token, position, *past)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaStep(LlamaDecode(LLAMA_150M)).eval()
    return Case("llama-decode", model, sample, calibration=16, judged=8, tokens=1)


MODELS: dict[str, Callable[[], Case]] = {
    "vit-s": vit_s,
    "minilm": minilm,
    "gpt2-prefill": gpt2_prefill,
    "gpt2-decode": gpt2_decode,
    "vit-digits": vit_digits,
    "llama-decode": llama_decode,
}
DEFAULT = ("vit-s", "minilm", "gpt2-prefill", "gpt2-decode")


def case(name: str) -> Case:
    """A model of the list, the same weights and inputs in every process."""
    return MODELS[name]()


def arrays(inputs: Inputs) -> list[np.ndarray]:
    """Inputs as ONNX runtimes take them."""
    return [value.detach().numpy() for value in inputs]
