"""The trained models that rounding is measured on: how each is calibrated and what is its score."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .rounding_layers import Samples

_DIGITS_SAMPLES = 128
_CHARGPT_SAMPLES = 64  # of 128 characters
_CHARGPT_WINDOWS = 128  # of 128 characters
_MINILM_SAMPLES = 96
_MINILM_SENTENCES = 192


@dataclass(frozen=True)
class Subject:
    """A trained model with its data.

    Attributes:
        model: the float model.
        samples: what rounding sees.
        measure: the name of the quality.
        shown: its format, as `format` takes it.
        outputs: the model's outputs on the test data.
        score: quality, and other measures by name, of such outputs.
        large: slow methods take minutes on it.
    """

    model: nn.Module
    samples: Samples
    measure: str
    shown: str
    outputs: Callable[[nn.Module], Tensor]
    score: Callable[[Tensor], tuple[float, dict[str, float]]]
    large: bool = False

    def run(self, model: nn.Module) -> Tensor:
        """The outputs, without gradients."""
        with torch.no_grad():
            return self.outputs(model)


def snr_db(reference: Tensor, outputs: Tensor) -> float:
    """Return 10·log₁₀(Σy²/ΣΔ²); inf for equal outputs."""
    signal = reference.double().square().sum()
    noise = (reference.double() - outputs.double()).square().sum()
    return float(10 * torch.log10(signal / noise))


def digits() -> Subject:
    """The digits ViT with LayerNorm: accuracy on 360 images."""
    from ...models import load_digits_split, load_trained

    split = load_digits_split()

    def score(logits: Tensor) -> tuple[float, dict[str, float]]:
        return float((logits.argmax(dim=1) == split.y_test).double().mean()), {}

    def outputs(model: nn.Module) -> Tensor:
        return model(split.x_test)

    samples = Samples((split.x_train[:_DIGITS_SAMPLES],))
    return Subject(load_trained("layer"), samples, "accuracy", ".2%", outputs, score)


def chargpt() -> Subject:
    """The character GPT: perplexity a character on held-out text."""
    from ...models import chargpt as source

    windows = source.test_tokens(_CHARGPT_WINDOWS)

    def outputs(model: nn.Module) -> Tensor:
        return torch.cat([model(part[:, :-1]) for part in windows.split(32)])

    def score(logits: Tensor) -> tuple[float, dict[str, float]]:
        right = float((logits.argmax(dim=-1) == windows[:, 1:]).double().mean())
        perplexity = source.perplexity(lambda _: logits, windows, batch=len(windows))
        return perplexity, {"accuracy": right}

    samples = Samples((source.calibration_tokens(_CHARGPT_SAMPLES),))
    return Subject(source.load(), samples, "perplexity", ".3f", outputs, score)


def minilm() -> Subject:
    """MiniLM: mean cosine between its embeddings of sentences and the float model's."""
    from ...models import minilm as source

    sentences = source.test_sentences(_MINILM_SENTENCES)
    model = source.load()
    reference = source.embed(model, sentences)

    def outputs(model: nn.Module) -> Tensor:
        return source.embed(model, sentences)

    def score(embeddings: Tensor) -> tuple[float, dict[str, float]]:
        cosine, spearman = source.fidelity(reference, embeddings)
        return cosine, {"spearman": spearman}

    ids, mask = source.tokenize(source.calibration_sentences(_MINILM_SAMPLES))
    samples = Samples((ids, mask), mask.bool())
    return Subject(model, samples, "cosine", ".4f", outputs, score, large=True)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "digits": digits,
    "chargpt": chargpt,
    "minilm": minilm,
}
