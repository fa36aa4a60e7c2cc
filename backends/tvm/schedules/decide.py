"""Decisions that a rule takes by a formula, and that a measurement may take in its place.

A rule asks `decide(name, options)` with the options in the order of its own preference. It gets the
first, unless the caller of the rule has chosen another (`taking`). Options are told apart by their
text, so that a choice can be stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Option = TypeVar("Option")
OFFERED = 8
"""How many options are worth a measurement."""

_choices: ContextVar[Mapping[str, str]] = ContextVar("choices", default={})  # noqa: B039
_offered: ContextVar[dict[str, list[str]] | None] = ContextVar("offered", default=None)


def decide(name: str, options: Sequence[Option]) -> Option:
    """The option that was chosen for this decision, else the first."""
    texts = [str(option) for option in options]
    record = _offered.get()
    if record is not None:
        record.setdefault(name, texts[:OFFERED])
    wanted = _choices.get().get(name)
    return options[texts.index(wanted)] if wanted in texts else options[0]


@contextmanager
def taking(choices: Mapping[str, str]) -> Iterator[dict[str, list[str]]]:
    """Within it, rules decide as said; the result fills with what they were free to choose."""
    offered: dict[str, list[str]] = {}
    tokens = _choices.set(choices), _offered.set(offered)
    try:
        yield offered
    finally:
        _choices.reset(tokens[0])
        _offered.reset(tokens[1])
