"""What the command line shows and where: results on stdout, progress and errors on stderr."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

PATIENCE = 2.0
"""Seconds before a run that takes longer shows what it is doing."""


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

    def working(self) -> "Working":
        """A line on stderr that says what is being done, once it takes longer than `PATIENCE`."""
        return Working(enabled=not self.quiet and sys.stderr.isatty())


class Working:
    """A progress line that appears late and leaves nothing behind."""

    def __init__(self, *, enabled: bool) -> None:
        self._status = Status("", console=Console(file=sys.stderr)) if enabled else None
        self._timer = threading.Timer(PATIENCE, self._appear)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._done = False

    def __enter__(self) -> Self:
        if self._status is not None:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        with self._lock:
            self._done = True
            if self._status is not None:
                self._status.stop()

    def say(self, text: str) -> None:
        """What is being done now."""
        if self._status is not None:
            self._status.update(escape(text))

    def on_pass(self, spec: str, position: int, total: int) -> None:
        """As the driver's `Progress`."""
        self.say(f"pass {position + 1} of {total}: {spec}")

    def _appear(self) -> None:
        with self._lock:
            if self._status is not None and not self._done:
                self._status.start()


@contextmanager
def quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep the deprecation notes of torch and onnxscript off the terminal."""
    import warnings

    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield
