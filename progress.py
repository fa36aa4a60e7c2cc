"""Say what is being done once it takes longer than two seconds, on a terminal only.

One line on stderr, which goes away when the work is done. Calls may nest: the outermost line is
used, so the command line and the functions it calls do not write over each other.
"""

import functools
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.status import Status

PATIENCE = 2.0
"""Seconds before work that takes longer shows what it is doing."""

P = ParamSpec("P")
R = TypeVar("R")
_shown: ContextVar["Working | None"] = ContextVar("passel_working", default=None)


def say(text: str) -> None:
    """What is being done now, for whoever is watching."""
    working = _shown.get()
    if working is not None:
        working.say(text)


def announced(function: Callable[P, R]) -> Callable[P, R]:
    """Let a slow function show its progress, unless its caller already does."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        if _shown.get() is not None:
            return function(*args, **kwargs)
        with Working(enabled=sys.stderr.isatty()):
            return function(*args, **kwargs)

    return wrapper


class Working:
    """A progress line that appears late and leaves nothing behind."""

    def __init__(self, *, enabled: bool) -> None:
        self._status = Status("", console=Console(file=sys.stderr)) if enabled else None
        self._timer = threading.Timer(PATIENCE, self._appear)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._done = False

    def __enter__(self) -> Self:
        self._before = _shown.set(self)
        if self._status is not None:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _shown.reset(self._before)
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
