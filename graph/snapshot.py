"""The graph as it was at one moment, to go back to after a trial edit.

Kept are the fields of the graph, its ops and its values, not the payloads of constants: nothing
edits those in place. Going back is exact: the same objects, in the same order, under the same
names; ops and values made since are no longer part of the graph.
"""

from collections.abc import Iterator
from typing import Any

from .graph import Graph
from .value import Value


class Snapshot:
    """A graph's state; `restore` may be called as often as one likes."""

    def __init__(self, graph: Graph) -> None:
        self._kept: list[tuple[Any, dict[str, Any]]] = [(graph, _copied(vars(graph)))]
        self._kept += [(op, _copied(vars(op))) for op in graph.ops]
        self._kept += [(value, _copied(vars(value))) for value in _values(graph)]

    def restore(self) -> None:
        """Let the graph be what it was."""
        for holder, state in self._kept:
            vars(holder).clear()
            vars(holder).update(_copied(state))


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    """The fields, with containers of their own."""
    return {k: v.copy() if isinstance(v, list | dict | set) else v for k, v in state.items()}


def _values(graph: Graph) -> Iterator[Value]:
    """Every value that the graph reaches, each once."""
    found = dict.fromkeys([*graph.inputs, *graph.outputs, *graph.pinned])
    for op in graph.ops:
        found.update(dict.fromkeys(v for v in (*op.inputs, *op.outputs) if v is not None))
    return iter(found)
