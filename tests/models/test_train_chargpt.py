"""The training script's parts: what text it takes, and a model small enough for a test."""

from dataclasses import replace
from pathlib import Path

import torch

from passel.models.chargpt import CHARACTERS, CHARGPT, encode
from passel.tools.train_chargpt import (
    HELD_OUT,
    calibration_sample,
    cleaned,
    corpus,
    docstrings,
    next_character_accuracy,
    sources,
    standard_modules,
    train,
)

TINY = replace(CHARGPT, context=8, dim=16, depth=1, heads=2)


def test_docstrings_are_those_of_module_classes_and_functions(tmp_path: Path) -> None:
    path = tmp_path / "some.py"
    path.write_text(
        '"""Of the module."""\nX = "no docstring"\n\nclass A:\n    """Of A.\n\n    More.\n    """\n'
        '    def f(self):\n        """Of f."""\n        "none"\n\nasync def g():\n    """Of g."""\n'
    )
    assert sorted(docstrings(path)) == ["Of A.\n\nMore.", "Of f.", "Of g.", "Of the module."]


def test_held_out_modules_are_not_learned() -> None:
    modules = standard_modules()
    assert "argparse" in modules
    assert not set(modules) & set(HELD_OUT)
    assert modules == sorted(modules)


def test_sources_leave_out_tests_and_compiled_modules() -> None:
    assert sources("sys") == []
    names = [path.as_posix() for path in sources("unittest")]
    assert names
    assert not any("/test/" in name or "/tests/" in name for name in names)
    assert [path.name for path in sources("json")][:2] == ["__init__.py", "decoder.py"]


def test_corpus_is_in_the_alphabet() -> None:
    text = corpus(["json"])
    assert "JSON" in text
    assert set(text) <= set(CHARACTERS)
    assert cleaned("é\tok\n") == "??ok\n"


def test_calibration_sample_is_spread_over_the_text() -> None:
    text = "".join(chr(97 + i // 4000) for i in range(26 * 4000))
    sample = calibration_sample(text)
    assert len(sample) == 256 * CHARGPT.context
    assert set(sample) == set(text)


def test_training_is_deterministic_and_learns() -> None:
    tokens = encode("abcdefgh" * 40)
    first, again = (train(TINY, tokens, steps=60, seed=3) for _ in range(2))
    states = first.state_dict(), again.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert next_character_accuracy(first, tokens.unfold(0, 9, 8)) > 0.9
