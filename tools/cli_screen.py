"""What the command line shows and where: results on stdout, progress and errors on stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..progress import Working


@dataclass
class Screen:
    """The two streams of one call of the command line.

    Attributes:
        quiet: print no results and no progress; errors still show.
        debug: show tracebacks and library warnings.
    """

    quiet: bool = False
    debug: bool = False

    def print(self, *parts: str | Table) -> None:
        """Print results: text as it stands, tables as wide as they need."""
        if self.quiet:
            return
        console = Console(file=sys.stdout, highlight=False, markup=False)
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))

    def print_json(self, plain: object) -> None:
        """Print JSON for other programs; asked for, so also when quiet."""
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")

    def working(self) -> Working:
        """A line on stderr that says what is being done, once it takes longer than `PATIENCE`."""
        return Working(enabled=not self.quiet and sys.stderr.isatty())


@contextmanager
def quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the deprecation notes of torch and onnxscript off the terminal."""
    import warnings

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield
