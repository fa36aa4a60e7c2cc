"""Which form of a graph was the fastest when it was compiled here before.

A line in a file of the user's cache folder, by graph, machine, versions and threads; weights do not
count. It saves the measurement, not the verification.
"""

from collections.abc import Sequence

import torch

from ..errors import PasselError
from ..graph import Graph
from .cache_folder import cache_folder
from .kept_lines import KeptLines
from .target import Target

FILE = "forms.jsonl"


class KeptForm:
    """The form of one graph; without a cache folder, of none."""

    def __init__(
        self, graph: Graph, inputs: Sequence[torch.Tensor], target: Target, threads: int
    ) -> None:
        from .tuning.memory import key_of

        try:
            self._key = key_of(graph, inputs, target, threads=threads).digest
            self._lines = KeptLines(cache_folder() / FILE, str)
        except (PasselError, OSError):  # no home, or no file that can be read
            self._key, self._lines = "", KeptLines(None, str)

    @property
    def name(self) -> str | None:
        """Its name, if it is known."""
        return self._lines.get(self._key)

    def keep(self, name: str) -> None:
        """Remember it; a folder that cannot be written to only costs time later."""
        self._lines.keep(self._key, name)
