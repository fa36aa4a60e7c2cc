"""Patterns that name ops: an op's name or kind, a module path, or "re:" and an expression."""

import re
from collections.abc import Iterable, Iterator, Sequence

from ..errors import InvalidInput
from ..graph import Op


class Pattern:
    """One pattern, as in `exclude=`."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.expression = re.compile(text[3:]) if text.startswith("re:") else None
        except re.error as error:
            raise InvalidInput(f"exclude: {text!r} is no regular expression: {error}") from error

    def matches(self, op: Op) -> bool:
        if self.expression is not None:
            return any(self.expression.search(text) for text in (op.name, op.scope))
        inside = op.scope == self.text or op.scope.startswith(self.text + ".")
        return self.text in (op.name, op.kind) or inside


class Patterns:
    """Patterns in order. Looking one up costs the same however many there are, expressions apart.

    A placement that was measured names every product of a model.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._plain: dict[str, int] = {}
        self._expressions: list[tuple[int, Pattern]] = []
        for place, text in enumerate(texts):
            pattern = Pattern(text)
            if pattern.expression is None:
                self._plain.setdefault(text, place)
            else:
                self._expressions.append((place, pattern))

    def first(self, op: Op) -> int | None:
        """The place of the first pattern that an op matches, if it matches one."""
        return min(self._places(op), default=None)

    def check(self, what: str, ops: Iterable[Op]) -> None:
        """Look whether every pattern matches an op.

        Raises:
            InvalidInput: one does not; names it, and the argument `what` that it stands in.
        """
        open_ = {place: text for text, place in self._plain.items()}
        open_ |= {place: pattern.text for place, pattern in self._expressions}
        for op in ops:
            for place in self._places(op):
                open_.pop(place, None)
        if open_:
            text = open_[min(open_)]
            raise InvalidInput(
                f"{what}: {text!r} matches no op name, op kind or module path; "
                f"`passel inspect` lists them"
            )

    def _places(self, op: Op) -> Iterator[int]:
        for text in (op.name, op.kind, *_paths(op.scope)):
            if text in self._plain:
                yield self._plain[text]
        yield from (place for place, pattern in self._expressions if pattern.matches(op))


def _paths(scope: str) -> Iterator[str]:
    """A module path and those of the modules that hold it."""
    yield scope
    end = scope.rfind(".")
    while end >= 0:
        yield scope[:end]
        end = scope.rfind(".", 0, end)
