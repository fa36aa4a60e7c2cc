"""Progress at least twice a second, also while one long step runs."""

import contextvars
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Progress = Callable[[int, int, str], object]
"""Called with (done, total, label), from this thread or, during a long step, from another."""
PERIOD = 0.4


class Ticker:
    """Repeats the last position to `progress` until the next one comes."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._now = (0, "")
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._error: BaseException | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=lambda: context.run(self._beat), daemon=True)

    def __enter__(self) -> Self:
        if self._progress is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def step(self, done: int, label: str) -> None:
        """Say where the work is; what `progress` raised meanwhile is raised here."""
        if self._error is not None:
            raise self._error
        self._now = (done, label)
        self._tell()

    def _beat(self) -> None:
        while not self._over.wait(PERIOD):
            try:
                self._tell()
            except BaseException as error:
                self._error = error
                return

    def _tell(self) -> None:
        if self._progress is not None:
            with self._lock:
                done, label = self._now
                self._progress(done, self._total, label)
